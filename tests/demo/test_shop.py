"""The demo's shop: the same seed gives the same shop, and its trade does what a pipeline must follow."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Timer

import pytest

from raypipe.demo.desk import ShopDesk
from raypipe.demo.invention import Invention
from raypipe.demo.shop import ShopExists, connect, create
from raypipe.demo.staff import Staff
from raypipe.demo.trade import DEALS, Deal
from raypipe.demo.writer import Tally, Writer

TABLES = ("customers", "orders", "order_items", "sessions", "audit")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    create(path, rows=1000, seed=1)
    return path


@pytest.fixture
def connection(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(database)) as connection:
        yield connection


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}


def work(path: Path, seed: int, transactions: int) -> Tally:
    with closing(Writer(ShopDesk(path), seed)) as writer:
        return writer.work(transactions=transactions, rate=0, stop=Event())


def orders_worth_something_else(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT count(*) FROM orders WHERE abs(amount - (SELECT coalesce(sum(quantity * price), 0) FROM order_items"
            " WHERE order_items.order_id = orders.order_id)) > 0.001"
        )
        return int(found.fetchone()[0])


def test_a_shop_has_as_many_rows_as_asked_for(tmp_path: Path) -> None:
    counts = create(tmp_path / "shop.db", rows=777, seed=1)
    assert sum(counts.values()) == 777
    assert {table: len(rows) for table, rows in contents(tmp_path / "shop.db").items()} == counts


def test_a_shop_with_no_rows_can_be_worked_in(tmp_path: Path) -> None:
    create(tmp_path / "shop.db", rows=0, seed=1)
    assert work(tmp_path / "shop.db", seed=1, transactions=100).committed > 50


def test_the_same_seed_gives_the_same_shop_and_the_same_trade(tmp_path: Path) -> None:
    for name in ("one.db", "two.db"):
        create(tmp_path / name, rows=500, seed=7)
        work(tmp_path / name, seed=8, transactions=200)
    assert contents(tmp_path / "one.db") == contents(tmp_path / "two.db")


def test_an_existing_file_is_never_written_over(database: Path) -> None:
    before = contents(database)
    with pytest.raises(ShopExists):
        create(database, rows=10, seed=2)
    assert contents(database) == before


@pytest.mark.parametrize("deal", DEALS, ids=lambda deal: deal.name)
def test_every_kind_of_transaction_changes_something(deal: Deal, connection: sqlite3.Connection) -> None:
    before = connection.total_changes
    for seed in range(5):
        deal.act(connection, Invention(random.Random(seed)))
    assert connection.total_changes > before


def test_replacing_a_customer_removes_another_row_unseen_by_delete_triggers(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TEMP TABLE deleted (customer_id)")
    connection.execute(
        "CREATE TEMP TRIGGER t AFTER DELETE ON customers BEGIN INSERT INTO deleted VALUES (old.customer_id); END"
    )
    before = {key for (key,) in connection.execute("SELECT customer_id FROM customers")}
    next(deal for deal in DEALS if deal.name == "replace_customer").act(connection, Invention(random.Random(3)))
    after = {key for (key,) in connection.execute("SELECT customer_id FROM customers")}
    assert len(before - after) == len(after - before) == 1
    assert connection.execute("SELECT count(*) FROM deleted").fetchone() == (0,)


def test_a_writer_does_every_kind_of_transaction_and_rolls_some_back(database: Path) -> None:
    tally = work(database, seed=1, transactions=600)
    assert tally.deals.keys() == {deal.name for deal in DEALS}
    assert tally.committed + tally.rolled_back + tally.refused == 600
    assert tally.rolled_back > 0


def test_a_writer_that_finds_the_database_locked_tries_again(database: Path) -> None:
    with closing(connect(database)) as holder, closing(Writer(ShopDesk(database), 1)) as writer:
        holder.execute("BEGIN IMMEDIATE")
        stop = Event()
        ending = Timer(0.8, stop.set)
        ending.start()
        assert writer.work(transactions=1, rate=0, stop=stop).committed == 0
        ending.join()
        holder.execute("ROLLBACK")
        assert writer.work(transactions=1, rate=0, stop=Event()).busy >= 1


def test_a_rate_is_kept(database: Path) -> None:
    with closing(Writer(ShopDesk(database), 1)) as writer:
        assert writer.work(transactions=26, rate=50, stop=Event()).seconds >= 0.4


def test_writers_at_once_keep_every_order_worth_its_items_and_leave_when_told(database: Path) -> None:
    assert orders_worth_something_else(database) == 0
    before = contents(database)
    with Staff([("--database", str(database))] * 3, seed=1) as staff:
        deadline = time.monotonic() + 60
        while len(contents(database)["audit"]) < len(before["audit"]) + 100 and time.monotonic() < deadline:
            assert staff.at_work() == 3
        tallies = staff.stop()
        assert staff.at_work() == 0
    assert sum(tally["committed"] for tally in tallies) >= 100
    assert orders_worth_something_else(database) == 0


def test_a_writer_that_fails_is_told_of(tmp_path: Path) -> None:
    with Staff([("--database", str(tmp_path / "no-such-shop.db"))], seed=1) as staff:
        deadline = time.monotonic() + 60
        while staff.at_work() and time.monotonic() < deadline:
            Event().wait(0.01)
        with pytest.raises(RuntimeError, match="1 of 1 writers failed"):
            staff.stop()
