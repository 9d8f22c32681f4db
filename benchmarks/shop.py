"""A shop to measure on: its database, its pipeline file, and a backlog of changes made by SQL alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

TABLE = """
CREATE TABLE orders (
    order_id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL,
    status TEXT NOT NULL,
    amount DECIMAL(10,2),
    placed_at TIMESTAMP,
    note TEXT
)
"""

PIPELINE = """
pipeline: shop
log: sqlite:///log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [orders]}
steps:
  paid_orders:
    sql: |
      SELECT order_id, customer_id, amount, placed_at::DATE AS day
      FROM shop.orders WHERE status = 'paid'
sinks:
  warehouse:
    url: "SINK"
    tables: {paid_orders: {from: paid_orders}}
"""
DUCKDB = "duckdb:///warehouse.duckdb"
SQLITE = "sqlite:///warehouse.db"

# A number from 0 to 999,999 that looks random and is the same in every run: Knuth's multiplicative hash.
SCATTERED = "((id * 2654435761) % 1000000)"

INSERT = f"""
WITH RECURSIVE ids(id) AS (SELECT :first UNION ALL SELECT id + 1 FROM ids WHERE id < :last)
INSERT INTO orders
SELECT id, {SCATTERED} % 10000, CASE WHEN {SCATTERED} % 4 = 0 THEN 'paid' ELSE 'new' END, {SCATTERED} / 100.0,
       strftime('%Y-%m-%d %H:%M:%S', 1767225600 + {SCATTERED} * 30, 'unixepoch'),
       CASE WHEN {SCATTERED} % 10 THEN 'order number ' || id END
FROM ids
"""
UPDATE = (
    "UPDATE orders SET status = CASE status WHEN 'new' THEN 'paid' ELSE 'shipped' END"
    " WHERE order_id BETWEEN :first AND :last"
)
DELETE = "DELETE FROM orders WHERE order_id BETWEEN :first AND :last"

# Changes in one transaction of the shop; a nightly job does more, a web shop less.
TRANSACTION = 1_000


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Where everything of one shop lies."""

    folder: Path

    @property
    def database(self) -> Path:
        """The source."""
        return self.folder / "shop.db"

    @property
    def pipeline(self) -> Path:
        """The pipeline file."""
        return self.folder / "pipeline.yaml"


def make_shop(folder: Path, sink: str = DUCKDB) -> Shop:
    """A shop without orders, and a pipeline file that keeps its paid orders in a sink of that URL."""
    shop = Shop(folder=folder)
    with closing(connect(shop.database)) as database:
        database.execute(TABLE)
    shop.pipeline.write_text(PIPELINE.replace("SINK", sink))
    return shop


def connect(database: Path) -> sqlite3.Connection:
    """A writer's connection as a careful application opens it; transactions are its own business."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=60.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def make_backlog(shop: Shop, changes: int) -> None:
    """Changes orders: half inserts, four tenths updates, a tenth deletes, interleaved, in many transactions."""
    with closing(connect(shop.database)) as database:
        for statements in _transactions(changes):
            database.execute("BEGIN IMMEDIATE")
            for sql, first, last in statements:
                database.execute(sql, {"first": first, "last": last})
            database.execute("COMMIT")


def _transactions(changes: int) -> Iterator[list[tuple[str, int, int]]]:
    """Each inserts new orders, updates those of four fifths of them, and deletes some that an earlier one inserted."""
    inserts, updates, deletes = TRANSACTION // 2, TRANSACTION * 4 // 10, TRANSACTION // 10
    for first in range(1, changes // TRANSACTION * inserts + 1, inserts):
        yield [
            (INSERT, first, first + inserts - 1),
            (UPDATE, first, first + updates - 1),
            (DELETE, first + inserts - deletes, first + inserts - 1),
        ]
