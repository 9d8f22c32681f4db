"""What the three benchmarks of a backlog share: the same content, read by ``pg_recvlogical`` and by raypipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.postgres import content
from benchmarks.postgres.content import Written
from benchmarks.postgres.cost import measured
from benchmarks.postgres.lab import Lab, lab
from benchmarks.postgres.pumping import raypipe, shares
from benchmarks.postgres.recvlogical import Recvlogical

# So much is read by both before anything is timed: a broker and a server that have just started are slow for everybody.
WARM_CHANGES = 50_000
# And then so much, with a checkpoint each time, which moves the place on from which a server decodes for a slot: that
# lags behind what was confirmed, and what lies between is decoded once more, for nobody.
CONFIRMED_CHANGES = 5_000


class OrdersBacklog:
    """A history of one table of orders waits in the slot; what it is made of and how long it is, a subclass says."""

    name: str
    about: str
    figures: tuple[Figure, ...]
    repetitions = Repetitions(full=5, quick=1)

    def changes(self, size: Size) -> int:
        """In the history."""
        raise NotImplementedError

    @staticmethod
    def write(lab: Lab, first: int, changes: int) -> Written:
        """Writes so many orders, numbered from ``first`` on."""
        raise NotImplementedError

    def run(self, folder: Path, size: Size) -> Samples:
        """Writes the history, then reads it twice."""
        del folder
        return backlog(self.name, _make_orders, self._write, self.changes(size))

    def _write(self, lab: Lab, tables: Sequence[str], changes: int) -> Written:
        del tables
        return self.write(lab, content.next_order(lab), changes)


def ratio_figure(name: str, unit: str, what: str, at_least: float) -> Figure:
    """A speed beside that at which ``pg_recvlogical`` reads the same: one ``what``, or several."""
    return Figure(
        name=name,
        unit=unit,
        beside=f"pg_recvlogical reads the same {what} from a slot of its own to /dev/null",
        goal=Goal(text=f"ratio >= {at_least:g}", of="ratio", at_least=at_least),
    )


def _make_orders(lab: Lab) -> Sequence[str]:
    content.make_orders(lab)
    return (content.ORDERS,)


def backlog(
    name: str,
    make: Callable[[Lab], Sequence[str]],
    write: Callable[[Lab, tuple[str, ...], int], Written],
    changes: int,
) -> Samples:
    """One repetition: a history waits in two slots of one server, and each reader takes what is in its own.

    Args:
        name: Of the figure.
        make: Makes the tables; returns their names.
        write: Writes a history of so many changes to them.
        changes: How many.
    """
    with lab() as servers:
        tables = tuple(make(servers))
        reader = raypipe(servers, tables)
        limit = Recvlogical.install(servers, tables)
        for warm in (WARM_CHANGES, *[CONFIRMED_CHANGES] * 3):
            before = write(servers, tables, warm)
            limit.read(servers.settle())
            with reader.reading() as reading:
                reading.catch_up(before.images)
        written = write(servers, tables, changes)
        end = servers.settle()
        by_limit = measured(servers, lambda: limit.read(end))
        with reader.reading() as reading:
            by_raypipe = measured(servers, lambda: reading.catch_up(written.images), reading.source.close)
        return Samples(
            by_figure={
                name: Sample(value=written.changes / by_raypipe.seconds, limit=written.changes / by_limit.seconds)
            },
            notes=(
                servers.about(),
                f"{written.changes:,} changes in {written.transactions:,} transactions",
                f"raypipe, CPU-seconds per million changes: {by_raypipe.per_million(written.changes)}",
                f"pg_recvlogical, the same: {by_limit.per_million(written.changes)}",
                f"raypipe's stages, which overlap, in {by_raypipe.seconds:.2f} s: {shares(reading.pump.figures)}",
            ),
        )
