"""``pg_stream_bulk``: how fast one large transaction goes from PostgreSQL into a committed Kafka transaction."""

from __future__ import annotations

from benchmarks.harness import Size
from benchmarks.postgres import content
from benchmarks.postgres.backlog import OrdersBacklog, ratio_figure


class PgStreamBulk(OrdersBacklog):
    """One transaction of a million rows, waiting in the slot."""

    name = "pg_stream_bulk"
    about = (
        "Rows per second of one transaction that waits in a replication slot, decoded, encoded and committed in Kafka"
        " with position and cut."
    )
    figures = (ratio_figure(name, "rows/s", "transaction", 1.6),)
    write = staticmethod(content.one_transaction)

    def changes(self, size: Size) -> int:
        """In the history."""
        return 1_000_000 if size is Size.FULL else 100_000
