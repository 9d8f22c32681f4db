"""``pg_stream_small``: how fast many small transactions go from PostgreSQL into committed Kafka transactions."""

from __future__ import annotations

from benchmarks.harness import Size
from benchmarks.postgres import content
from benchmarks.postgres.backlog import OrdersBacklog, ratio_figure


class PgStreamSmall(OrdersBacklog):
    """Two hundred thousand transactions of one row each, waiting in the slot."""

    name = "pg_stream_small"
    about = (
        "Transactions per second, of one row each, that wait in a replication slot, decoded, encoded and committed in"
        " Kafka with position and cut."
    )
    figures = (ratio_figure(name, "rows/s", "transactions", 1.8),)
    write = staticmethod(content.single_rows)

    def changes(self, size: Size) -> int:
        """In the history."""
        return 200_000 if size is Size.FULL else 20_000
