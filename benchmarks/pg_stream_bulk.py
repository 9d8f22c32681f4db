"""``pg_stream_bulk``: how fast one large transaction goes from PostgreSQL into a committed Kafka transaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Figure, Goal, Repetitions, Samples, Size
from benchmarks.postgres import content
from benchmarks.postgres.backlog import backlog
from benchmarks.postgres.lab import Lab


class PgStreamBulk:
    """One transaction of a million rows, waiting in the slot."""

    name = "pg_stream_bulk"
    about = (
        "Rows per second of one transaction that waits in a replication slot, decoded, encoded and committed in Kafka"
        " with position and cut."
    )
    figures = (
        Figure(
            name="pg_stream_bulk",
            unit="rows/s",
            beside="pg_recvlogical reads the same transaction from a slot of its own to /dev/null",
            goal=Goal(text="ratio >= 1.6", of="ratio", at_least=1.6),
        ),
    )
    repetitions = Repetitions(full=5, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Writes one transaction, then reads it twice."""
        del folder
        return backlog(self.name, _make, _write, 1_000_000 if size is Size.FULL else 100_000)


def _make(lab: Lab) -> Sequence[str]:
    content.make_orders(lab)
    return (content.ORDERS,)


def _write(lab: Lab, tables: Sequence[str], changes: int) -> content.Written:
    del tables
    return content.one_transaction(lab, content.next_order(lab), changes)
