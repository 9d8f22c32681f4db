"""The example pipeline, run in one process behind a shop in full swing, and verified."""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from cluster.services.kafka import KafkaCluster
from raypipe.cli.verify import report_lines
from raypipe.demo import shop
from raypipe.demo.desk import ShopDesk
from raypipe.demo.writer import Writer
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.plan.model import Plan
from raypipe.spec import load
from raypipe.verify import Report, verify
from raypipe.verify.strays import FOUND_IN

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop" / "pipeline.yaml"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("RAYPIPE_SHOP", str(tmp_path))
    shop.create(tmp_path / "shop.db", rows=1000, seed=1)
    return assemble(load(EXAMPLE))


@pytest.fixture
def kafka_plan(plan: Plan, kafka: KafkaCluster) -> Plan:
    """The same pipeline with its log in Kafka, one table of it as JSON; nothing else differs."""
    log = f"kafka://{kafka.bootstrap}?partitions=3&debezium=shop.orders"
    return replace(plan, pipeline=f"shop{uuid.uuid4().hex[:8]}", log=log)


def wrong(report: Report) -> dict[str, tuple[int, int, int]]:
    """Missing, extra and different rows of the tables that are not right."""
    return {
        f"{table.sink}.{table.table}": (table.missing, table.extra, table.different)
        for table in report.tables
        if not table.ok
    }


def test_every_store_is_right_behind_a_writer_that_never_stands_still(plan: Plan, tmp_path: Path, seed: int) -> None:
    check_behind_a_writer(plan, tmp_path, seed)


def test_every_store_is_right_when_the_log_is_in_kafka(kafka_plan: Plan, tmp_path: Path, seed: int) -> None:
    check_behind_a_writer(kafka_plan, tmp_path, seed)


def check_behind_a_writer(plan: Plan, tmp_path: Path, seed: int) -> None:
    stop = Event()

    def work() -> None:
        with closing(Writer(ShopDesk(tmp_path / "shop.db"), seed)) as writer:
            writer.work(transactions=1500, rate=0, stop=stop)

    writer = Thread(target=work)
    writer.start()
    try:
        run_local(plan, until=1.0)
        run_local(plan, until="idle")
        report = verify(plan)
    finally:
        stop.set()
        writer.join()
    assert wrong(report) == {}
    assert len(report.tables) == 15
    assert not report.parked


def test_verify_takes_the_shards_together_and_finds_what_is_wrong_in_one(plan: Plan, tmp_path: Path) -> None:
    run_local(plan, until="idle")
    with closing(sqlite3.connect(tmp_path / "shard-0.db")) as first:
        ((lost,), (changed,)) = first.execute("SELECT order_id FROM orders ORDER BY order_id LIMIT 2").fetchall()
        taken = first.execute("SELECT * FROM customers LIMIT 1").fetchone()
        first.execute("DELETE FROM orders WHERE order_id = ?", (lost,))
        first.execute("UPDATE orders SET note = 'altered' WHERE order_id = ?", (changed,))
        first.commit()
    with closing(sqlite3.connect(tmp_path / "shard-1.db")) as second:
        second.execute(f"INSERT INTO customers VALUES ({', '.join('?' * len(taken))})", taken)
        second.commit()
    report = verify(plan)
    assert wrong(report) == {"shards.orders": (1, 0, 1), "shards.customers": (0, 1, 0)}
    examples = {table.table: table.examples for table in report.tables if table.sink == "shards"}
    assert examples["orders"]["missing"] == ({"order_id": lost},)


def test_verify_finds_rows_that_lie_in_the_wrong_shard(plan: Plan, tmp_path: Path) -> None:
    run_local(plan, until="idle")
    with (
        closing(sqlite3.connect(tmp_path / "shard-0.db")) as first,
        closing(sqlite3.connect(tmp_path / "shard-1.db")) as second,
    ):
        moved = first.execute("SELECT * FROM orders ORDER BY order_id LIMIT 7").fetchall()
        names = [column[1] for column in first.execute("PRAGMA table_info(orders)")]
        second.executemany(f"INSERT INTO orders VALUES ({', '.join('?' * len(names))})", moved)
        ids = [row[names.index("order_id")] for row in moved]
        first.execute(f"DELETE FROM orders WHERE order_id IN ({', '.join(map(str, ids))})")
        first.commit()
        second.commit()
    report = verify(plan)
    [table] = [table for table in report.tables if not table.ok]
    assert (table.sink, table.table, table.misplaced) == ("shards", "orders", 7)
    assert table.missing == table.extra == table.different == 0
    found = table.examples["misplaced"]
    assert len(found) == 5
    assert {row["order_id"] for row in found} <= set(ids)
    assert found[0].keys() == {"order_id", FOUND_IN}
    lines = report_lines(report)
    assert f"shards.orders misplaced: order_id={found[0]['order_id']} in shards.1" in lines
    assert json.loads(report.to_json())["ok"] is False
