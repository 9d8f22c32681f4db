"""``view_nexmark``: Nexmark's questions as steps over streams of events, beside asking them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.harness import Figure, Repetitions, Sample, Samples, Size
from benchmarks.kept import Tables, pace_of
from benchmarks.nexmark.events import TABLES, House
from benchmarks.nexmark.queries import QUERIES

EPOCHS = 5


class ViewNexmark:
    """Every question by itself: events that came before are loaded, then more come, epoch by epoch."""

    name = "view_nexmark"
    about = (
        "Each of Nexmark's questions as a step, carried over epochs of events, one second of event time each, state "
        "durable at each; checked against DuckDB."
    )
    figures = (
        Figure(name="nexmark_epoch", unit="ms, mean of all", beside="DuckDB answers again, one thread"),
        Figure(name="nexmark_events", unit="events/s, mean of all", beside="as many events, answered again"),
    )
    repetitions = Repetitions(full=1, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures one question after the other, each over the same events."""
        before, each = (200_000, 10_000) if size is Size.FULL else (5_000, 1_000)
        paces = {}
        for name, sql in QUERIES.items():
            house = House(1, events_per_second=each)
            with closing(Tables(TABLES)) as tables:
                for table, rows in house.next(before).items():
                    tables.load(f"nexmark.{table}", rows)
                paces[name] = pace_of(folder / name, tables, name, sql, _epochs(house, tables, each))
        spent = sum(pace.epoch_s for pace in paces.values()) / len(paces)
        again = sum(pace.batch_s for pace in paces.values()) / len(paces)
        told = ", ".join(f"{name} {pace.epoch_s * 1e3:.0f} ({pace.batch_s * 1e3:.0f})" for name, pace in paces.items())
        return Samples(
            by_figure={
                "nexmark_epoch": Sample(value=spent * 1e3, limit=again * 1e3),
                "nexmark_events": Sample(value=each / spent, limit=each / again),
            },
            notes=(
                f"{before:,} events loaded, then epochs of {each:,}",
                f"ms for each epoch (and for DuckDB to answer again): {told}",
            ),
        )


def _epochs(house: House, tables: Tables, events: int) -> Iterator[None]:
    for _ in range(EPOCHS):
        for table, rows in house.next(events).items():
            tables.insert(f"nexmark.{table}", rows)
        yield
