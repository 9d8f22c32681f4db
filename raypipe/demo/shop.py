"""The shop's database: its tables, and its first rows."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from raypipe.demo.invention import Invention

# Every table holds a trap for a naive capture. customers: a second UNIQUE column, through which REPLACE removes another
# row. orders: foreign keys that cascade and set NULL. order_items: a composite key, WITHOUT ROWID. sessions: STRICT.
# audit: no key at all, so equal rows may stand in it twice.
SCHEMA = """
CREATE TABLE customers (
    customer_id INTEGER PRIMARY KEY,
    email       TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    country     TEXT,
    birthday    DATE,
    vip         BOOLEAN NOT NULL DEFAULT FALSE,
    credit      DECIMAL(10,2),
    preferences JSON,
    avatar      BLOB,
    joined_at   TIMESTAMP NOT NULL
);
CREATE TABLE orders (
    order_id    INTEGER PRIMARY KEY,
    customer_id INTEGER REFERENCES customers ON UPDATE CASCADE ON DELETE SET NULL,
    status      TEXT NOT NULL CHECK (status IN ('new', 'paid', 'shipped', 'returned', 'cancelled')),
    amount      DECIMAL(10,2) NOT NULL,
    placed_at   TIMESTAMP NOT NULL,
    note        TEXT
);
CREATE INDEX orders_by_customer ON orders (customer_id);
CREATE TABLE order_items (
    order_id    INTEGER NOT NULL REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE,
    line        INTEGER NOT NULL,
    sku         TEXT NOT NULL,
    quantity    INTEGER NOT NULL CHECK (quantity > 0),
    price       DECIMAL(10,2) NOT NULL,
    weight_kg   REAL,
    PRIMARY KEY (order_id, line)
) WITHOUT ROWID;
CREATE TABLE sessions (
    session_id  INTEGER PRIMARY KEY,
    customer_id INTEGER,
    started_at  TEXT NOT NULL,
    score       REAL,
    state       BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    at          TIMESTAMP NOT NULL,
    clerk       TEXT NOT NULL,
    event       TEXT NOT NULL,
    detail      JSON
);
"""

# Parts of a hundred of the first rows; order_items take what is left.
SHARES = {"customers": 15, "orders": 25, "sessions": 10, "audit": 5}

# A writer that finds the database locked waits this long before it counts a retry.
BUSY_S = 0.5


class ShopExists(FileExistsError):
    """There is a file where the shop's database shall be."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection as the clerks use it: explicit transactions, foreign keys, no recursive triggers."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    # A commit survives the death of any process; a power cut is not what the demo is about.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def create(path: str | Path, *, rows: int, seed: int) -> Mapping[str, int]:
    """Makes the shop's database, in WAL mode, with its first rows.

    Args:
        path: Of the file; its folder must exist.
        rows: Altogether, over all tables.
        seed: Of the values: the same seed gives the same rows.

    Returns:
        Rows by table.

    Raises:
        ShopExists: there is such a file already.
    """
    path = Path(path)
    if path.exists():
        raise ShopExists(f"{path} exists")
    counts = {table: rows * share // 100 for table, share in SHARES.items()}
    counts["order_items"] = rows - sum(counts.values())
    invention = Invention(random.Random(seed))
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        connection.execute("BEGIN")
        _fill(connection, invention, counts)
        connection.execute("COMMIT")
    finally:
        connection.close()
    return counts


def _fill(connection: sqlite3.Connection, invention: Invention, counts: Mapping[str, int]) -> None:
    customers = [(number, *invention.customer()) for number in range(1, counts["customers"] + 1)]
    connection.executemany(f"INSERT INTO customers VALUES ({_marks(10)})", customers)
    numbers = range(1, counts["orders"] + 1)
    items = _items(invention, counts["orders"], counts["order_items"])
    totals = dict.fromkeys(numbers, 0)
    for order_id, _, _, quantity, price, _ in items:
        totals[order_id] += quantity * round(float(price) * 100)
    orders = [
        (number, invention.one_of(customers)[0] if customers else None, *invention.order(totals[number]))
        for number in numbers
    ]
    connection.executemany(f"INSERT INTO orders VALUES ({_marks(6)})", orders)
    connection.executemany(f"INSERT INTO order_items VALUES ({_marks(6)})", items)
    sessions = [(number, *invention.session(counts["customers"])) for number in range(1, counts["sessions"] + 1)]
    connection.executemany(f"INSERT INTO sessions VALUES ({_marks(5)})", sessions)
    audit = [invention.audit("opening") for _ in range(counts["audit"])]
    connection.executemany(f"INSERT INTO audit VALUES ({_marks(4)})", audit)


def _items(invention: Invention, orders: int, items: int) -> list[tuple[int, int, str, int, str, float | None]]:
    """Items dealt out to the orders in turn, so that all orders have about as many."""
    if orders == 0:
        return []
    dealt = ((number % orders + 1, number // orders + 1) for number in count())
    return [(*next(dealt), *invention.item()) for _ in range(items)]


def _marks(columns: int) -> str:
    return ", ".join("?" * columns)
