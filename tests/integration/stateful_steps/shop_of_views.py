"""A shop whose pipeline has joins, aggregates, windows and steps on steps, on real files."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from raypipe.local.assemble import assemble
from raypipe.plan.model import Plan
from raypipe.spec import load

FILE = """\
pipeline: views
log: sqlite:///log.db
{checkpoints}sources:
  shop: {{url: "sqlite:///shop.db", tables: [customers, orders, notes]}}
steps:
  paid:
    sql: SELECT id, customer, cents, rate FROM shop.orders WHERE status = 'paid'
  totals:
    sql: {totals}
  named:
    sql: |
      SELECT c.id, c.name, t.n, t.cents FROM shop.customers c LEFT JOIN totals t ON t.customer = c.id
  spenders:
    sql: SELECT c.id, c.name, t.n, t.cents FROM shop.customers c JOIN totals t ON t.customer = c.id
  heavy:
    sql: SELECT customer, cents FROM ({totals}) WHERE n > 2
  best:
    sql: |
      SELECT id, customer, cents FROM shop.orders
      QUALIFY row_number() OVER (PARTITION BY customer ORDER BY cents DESC, id) <= 2
  rich:
    sql: SELECT id, name FROM named WHERE cents > 5000
  words:
    sql: SELECT body, count(*) AS n FROM shop.notes GROUP BY body
  recent:
    sql: SELECT id, customer FROM shop.orders WHERE {moment} > now() - INTERVAL 4 YEAR
  months:
    sql: |
      SELECT date_trunc('month', moment) AS begins, count(*) AS n
      FROM (SELECT {moment} AS moment FROM shop.orders) GROUP BY begins
  closed:
    sql: |
      SELECT begins, n FROM months
      WHERE begins + INTERVAL 1 MONTH <= (SELECT max({moment}) - INTERVAL 90 DAY FROM shop.orders)
  everything:
    sql: SELECT count(*) AS n, sum(cents) AS cents, avg(rate) AS rate FROM shop.orders
sinks:
  warehouse:
    url: "duckdb:///warehouse.duckdb"
    tables:
      paid: {{from: paid}}
      totals: {{from: totals}}
      named: {{from: named}}
      spenders: {{from: spenders}}
      heavy: {{from: heavy}}
      best: {{from: best}}
      rich: {{from: rich}}
      words: {{from: words}}
      recent: {{from: recent}}
      closed: {{from: closed}}
      everything: {{from: everything}}
      totals_history: {{from: totals, mode: history}}
  office:
    url: "sqlite:///office.db"
    tables: {{totals: {{from: totals}}, named: {{from: named}}, words: {{from: words}}{more}}}
limits: {{state_shards: {shards}, checkpoint_seconds: 3600}}
"""
# Orders have no time of their own; this one lies up to eleven years before the end of 2030.
MOMENT = "(TIMESTAMP '2030-12-31' - to_days(cents))"
TOTALS = "SELECT customer, count(*) AS n, sum(cents) AS cents, sum(rate) AS rate FROM paid GROUP BY customer"


class Shop:
    """A folder with a source and a pipeline file."""

    def __init__(self, folder: Path, seed: int, shards: int = 1, checkpoints: str = "") -> None:
        self.folder = folder
        self.shards = shards
        self.checkpoints = checkpoints
        self._chance = random.Random(seed)
        self.execute(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT)",
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER, rate REAL, status TEXT)",
            "CREATE TABLE notes (body TEXT)",
        )
        self.write()

    def write(self, totals: str = TOTALS, more: str = "") -> None:
        checkpoints = f"checkpoints: {self.checkpoints}\n" if self.checkpoints else ""
        text = FILE.format(totals=totals, more=more, moment=MOMENT, shards=self.shards, checkpoints=checkpoints)
        (self.folder / "pipeline.yaml").write_text(text)

    def plan(self) -> Plan:
        return assemble(load(self.folder / "pipeline.yaml"))

    def execute(self, *statements: str) -> None:
        connection = sqlite3.connect(self.folder / "shop.db", timeout=60)
        try:
            connection.executescript(";\n".join(statements) + ";")
        finally:
            connection.close()

    def trade(self, changes: int) -> None:
        """One transaction of random changes."""
        chance = self._chance
        statements = ["BEGIN"]
        for _ in range(changes):
            id_, customer = chance.randint(1, 60), chance.choice(["NULL", *map(str, range(1, 9))])
            statements.append(
                chance.choice(
                    [
                        f"INSERT OR REPLACE INTO orders VALUES ({id_}, {customer}, {chance.randint(0, 4000)}, "
                        f"{chance.choice(['0.1', '0.2', 'NULL'])}, '{chance.choice(['paid', 'open'])}')",
                        f"UPDATE orders SET status = iif(status = 'paid', 'open', 'paid') WHERE id = {id_}",
                        f"UPDATE orders SET customer = {customer} WHERE id = {id_}",
                        f"UPDATE OR IGNORE orders SET id = id + 7 WHERE id = {id_}",
                        f"DELETE FROM orders WHERE id = {id_}",
                        f"INSERT OR REPLACE INTO customers VALUES ({chance.randint(1, 9)}, '{chance.choice('abc')}')",
                        f"DELETE FROM customers WHERE id = {chance.randint(1, 9)}",
                        f"INSERT INTO notes VALUES ('{chance.choice('xyz')}'), ('{chance.choice('xyz')}'), (NULL)",
                        f"DELETE FROM notes WHERE rowid % 5 = {chance.randint(0, 4)}",
                    ]
                )
            )
        self.execute(*statements, "COMMIT")

    def run(self, faults: str = "") -> subprocess.CompletedProcess[str]:
        """Runs the pipeline until it is idle, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "raypipe", "run", str(self.folder / "pipeline.yaml"), "--local", "--until", "idle"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "RAYPIPE_FAULTS": faults},
        )
