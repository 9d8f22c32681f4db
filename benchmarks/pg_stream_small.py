"""``pg_stream_small``: how fast many small transactions go from PostgreSQL into committed Kafka transactions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Figure, Goal, Repetitions, Samples, Size
from benchmarks.postgres import content
from benchmarks.postgres.backlog import backlog
from benchmarks.postgres.lab import Lab


class PgStreamSmall:
    """Two hundred thousand transactions of one row each, waiting in the slot."""

    name = "pg_stream_small"
    about = (
        "Transactions per second, of one row each, that wait in a replication slot, decoded, encoded and committed in"
        " Kafka with position and cut."
    )
    figures = (
        Figure(
            name="pg_stream_small",
            unit="rows/s",
            beside="pg_recvlogical reads the same transactions from a slot of its own to /dev/null",
            goal=Goal(text="ratio >= 1.8", of="ratio", at_least=1.8),
        ),
    )
    repetitions = Repetitions(full=5, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Writes the transactions, then reads them twice."""
        del folder
        return backlog(self.name, _make, _write, 200_000 if size is Size.FULL else 20_000)


def _make(lab: Lab) -> Sequence[str]:
    content.make_orders(lab)
    return (content.ORDERS,)


def _write(lab: Lab, tables: Sequence[str], changes: int) -> content.Written:
    del tables
    return content.single_rows(lab, content.next_order(lab), changes)
