"""A small shop: a SQLite database and the pipeline file that reads it; and how a command over it ended."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE orders (
    order_id INTEGER PRIMARY KEY, customer_id INTEGER, amount DECIMAL(10,2), placed_at TIMESTAMP, status TEXT
);
CREATE TABLE events ("order" INTEGER, "group by" TEXT, payload JSON);
INSERT INTO customers VALUES (1, 'Ada'), (2, 'Zoë');
INSERT INTO orders VALUES
    (1, 1, 10.50, '2026-01-01 10:00:00', 'paid'),
    (2, 1, 20.00, '2026-01-02 10:00:00', 'open'),
    (3, 2, 30.25, '2026-01-03 10:00:00', 'paid');
INSERT INTO events VALUES (1, 'a', '{}'), (1, 'a', '{}');
"""

PIPELINE = """\
pipeline: shop
log: sqlite:///var/log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [customers, orders, events]}
steps:
  large_orders:
    sql: SELECT order_id, amount FROM paid_orders WHERE amount > 20
  paid_orders:
    sql: |
      SELECT order_id, customer_id, amount, placed_at::DATE AS day
      FROM shop.orders WHERE status = 'paid'
sinks:
  warehouse:
    url: "duckdb:///var/warehouse.duckdb"
    tables:
      paid_orders: {from: paid_orders}
      large_orders: {from: large_orders}
      events: {from: shop.events}
"""


class Shop:
    """A folder with a database and a pipeline file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "pipeline.yaml"
        self.database = folder / "shop.db"
        self.execute(SCHEMA)
        self.write()

    def execute(self, script: str) -> None:
        connection = sqlite3.connect(self.database)
        try:
            connection.executescript(script)
        finally:
            connection.close()

    def write(self, *replacements: tuple[str, str]) -> None:
        text = PIPELINE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]
