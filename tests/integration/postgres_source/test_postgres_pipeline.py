"""From PostgreSQL through the log and SQL steps into DuckDB and Delta, verified stopped and running."""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest
from postgres_database import Database
from reading import writers, wrong

from raypipe.engine.status import STATUS_NOTE, Status
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.log import open_existing_log
from raypipe.plan.model import Plan
from raypipe.spec import load
from raypipe.verify import verify

PIPELINE = """
pipeline: postgres_shop
log: sqlite:///log.db
sources:
  shop:
    url: {url}
    tables: [orders, customers, events]
steps:
  paid:
    sql: |
      SELECT id, customer, amount * 2 AS doubled, upper(note) AS note FROM shop.orders WHERE state = 'paid'
sinks:
  duck:
    url: duckdb:///store.duckdb
    tables:
      paid: {{from: paid}}
      orders: {{from: shop.orders}}
      customers: {{from: shop.customers}}
  lake:
    url: delta:///lake
    tables:
      orders: {{from: shop.orders}}
      events: {{from: shop.events}}
"""

SCHEMA = (
    "CREATE TABLE orders(id bigint PRIMARY KEY, customer int, amount numeric(12,2), state text, note text,"
    " made timestamptz DEFAULT clock_timestamp())",
    "CREATE TABLE customers(id int PRIMARY KEY, name text, profile text)",
    "ALTER TABLE customers ALTER profile SET STORAGE EXTERNAL",
    "CREATE TABLE events(kind text, at timestamptz, count int)",
    "ALTER TABLE events REPLICA IDENTITY FULL",
    "INSERT INTO customers SELECT g, 'c' || g, repeat(md5(g::text), 80) FROM generate_series(1, 200) g",
    "INSERT INTO orders SELECT g, g % 200, g * 1.37, CASE WHEN g % 3 = 0 THEN 'paid' ELSE 'new' END, 'n' || g"
    " FROM generate_series(1, 3000) g",
    "INSERT INTO events SELECT 'k' || g % 5, now(), g FROM generate_series(1, 500) g",
)


def trade(chance: random.Random) -> list[str]:
    order, customer = chance.randint(1, 4000), chance.randint(1, 200)
    choices = [
        f"UPDATE orders SET state = 'paid', amount = amount + 1 WHERE id = {order}",
        f"UPDATE orders SET state = 'new' WHERE id = {order}",
        f"DELETE FROM orders WHERE id = {order}",
        f"INSERT INTO orders VALUES ({order}, {customer}, 9.99, 'paid', NULL) ON CONFLICT DO NOTHING",
        f"UPDATE customers SET name = name || '!' WHERE id = {customer} AND length(name) < 40",
        f"UPDATE customers SET profile = repeat('{customer}', 2000) WHERE id = {customer}",
        f"INSERT INTO events VALUES ('new', clock_timestamp(), {order})",
        f"DELETE FROM events WHERE count = {order}",
    ]
    return [*chance.sample(choices, chance.randint(1, 3)), chance.choice(["COMMIT", "COMMIT", "ROLLBACK"])]


@pytest.fixture
def plan(database: Database, tmp_path: Path) -> Plan:
    database.write(*SCHEMA)
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.format(url=database.url))
    return assemble(load(file))


def await_run(plan: Plan) -> None:
    """Waits until the run that was just started has told that it is at work."""
    began, deadline = time.time(), time.monotonic() + 30
    with closing(open_existing_log(plan.log, pipeline=plan.pipeline)) as log:
        while True:
            text = log.notes(STATUS_NOTE).get(STATUS_NOTE)
            status = Status.from_json(text) if text is not None else None
            if status is not None and status.alive(time.time()) and status.at >= began:
                return
            assert time.monotonic() < deadline


def test_stores_are_right_behind_writers_that_never_rest(plan: Plan, database: Database, seed: int) -> None:
    with writers(database, 2, seed, trade):
        run_local(plan, until=1.0)
        running = Event()
        runner = Thread(target=run_local, args=(plan,), kwargs={"until": "forever", "stop": running})
        runner.start()
        try:
            await_run(plan)
            while_running = verify(plan)
        finally:
            running.set()
            runner.join()
        stopped = verify(plan)
    run_local(plan, until="idle")
    at_rest = verify(plan)
    assert [wrong(report) for report in (while_running, stopped, at_rest)] == [{}, {}, {}]
    assert len(at_rest.tables) == 5
