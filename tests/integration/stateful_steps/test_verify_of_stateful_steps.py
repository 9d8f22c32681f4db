"""`raypipe verify` of stateful steps: keys and multisets, over shards, and floating point sums to nine digits."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from shop_of_views import Shop

from raypipe.local.run import run_local
from raypipe.verify import TableReport, verify

FILE = """\
pipeline: sums
log: sqlite:///log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [customers, orders, notes]}
steps:
  sums:
    sql: |
      SELECT customer, sum(rate) AS rate, sum(rate)::FLOAT AS about, sum(cents) AS cents
      FROM shop.orders WHERE customer IS NOT NULL GROUP BY customer
  pairs:
    sql: SELECT n.body, o.cents FROM shop.notes n JOIN shop.orders o ON o.status = n.body
  spread:
    sql: SELECT stddev(rate) AS rate, count(*) AS n FROM shop.orders GROUP BY status, customer
sinks:
  shards:
    urls: ["sqlite:///shard-0.db", "sqlite:///shard-1.db"]
    tables:
      sums: {from: sums}
      sums_history: {from: sums, mode: history}
      pairs: {from: pairs}
      spread: {from: spread}
"""


@pytest.fixture
def shop(tmp_path: Path, seed: int) -> Shop:
    made = Shop(tmp_path, seed)
    (tmp_path / "pipeline.yaml").write_text(FILE)
    made.trade(80)
    values = ", ".join(f"({100 + n}, {n % 7}, {n}, {n / 3}, '{'paid' if n % 2 else 'open'}')" for n in range(60))
    made.execute(f"INSERT INTO orders VALUES {values}", "INSERT INTO notes VALUES ('paid'), ('paid'), ('open')")
    return made


def found(shop: Shop) -> dict[str, TableReport]:
    """Reports of the tables that are not right."""
    return {table.table: table for table in verify(shop.plan()).tables if not table.ok}


def tamper(shop: Shop, shard: int, *statements: str) -> int:
    """Changes what a shard holds; returns how many rows that were."""
    with closing(sqlite3.connect(shop.folder / f"shard-{shard}.db")) as connection:
        changed = sum(connection.execute(statement).rowcount for statement in statements)
        connection.commit()
    return changed


def test_every_shard_is_right_after_every_epoch(shop: Shop) -> None:
    for _ in range(4):
        run_local(shop.plan())
        assert found(shop) == {}
        shop.trade(30)


def test_last_digits_of_sums_may_differ_and_no_others(shop: Shop) -> None:
    run_local(shop.plan())
    assert sum(tamper(shop, shard, "UPDATE sums SET rate = rate * (1 + 1e-13) WHERE rate > 1") for shard in (0, 1))
    assert sum(tamper(shop, shard, "UPDATE sums SET about = about * (1 + 1e-7) WHERE about > 1") for shard in (0, 1))
    assert sum(tamper(shop, shard, "UPDATE spread SET rate = rate * (1 + 1e-13)") for shard in (0, 1))
    assert found(shop) == {}
    changed = sum(tamper(shop, shard, "UPDATE sums SET rate = rate * (1 + 1e-6) WHERE rate > 1") for shard in (0, 1))
    wrong = found(shop)
    assert wrong.keys() == {"sums"}
    assert (wrong["sums"].missing, wrong["sums"].extra, wrong["sums"].different) == (0, 0, changed)


def test_a_copy_too_few_a_group_too_many_and_a_row_in_the_wrong_shard_are_found(shop: Shop) -> None:
    run_local(shop.plan())
    gone = sum(
        tamper(shop, shard, "DELETE FROM pairs WHERE rowid = (SELECT min(rowid) FROM pairs)") for shard in (0, 1)
    )
    taken = "SELECT 999 AS customer, rate, about, cents FROM sums LIMIT 1"
    assert tamper(shop, 0, f"INSERT INTO sums (customer, rate, about, cents) {taken}") == 1
    wrong = found(shop)
    assert wrong.keys() == {"sums", "pairs"}
    assert (wrong["pairs"].missing, wrong["pairs"].extra) == (gone, 0)
    assert (wrong["sums"].missing, wrong["sums"].extra) == (0, 1)
    assert wrong["sums"].examples["extra"][0]["customer"] == 999
    with (
        closing(sqlite3.connect(shop.folder / "shard-0.db")) as zero,
        closing(sqlite3.connect(shop.folder / "shard-1.db")) as one,
    ):
        zero.execute("DELETE FROM sums WHERE customer = 999")
        rows = zero.execute("SELECT customer, rate, about, cents FROM sums").fetchall()
        zero.execute("DELETE FROM sums")
        one.executemany("INSERT INTO sums (customer, rate, about, cents) VALUES (?, ?, ?, ?)", rows)
        zero.commit()
        one.commit()
    wrong = found(shop)
    assert rows
    assert (wrong["sums"].misplaced, wrong["sums"].missing, wrong["sums"].extra) == (len(rows), 0, 0)
