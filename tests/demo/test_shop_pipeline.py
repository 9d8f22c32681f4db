"""The example pipeline, run in one process behind a shop in full swing, and verified."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from cluster.services.kafka import KafkaCluster
from raypipe.demo import shop
from raypipe.demo.writer import Writer
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.plan.model import Plan
from raypipe.spec import load
from raypipe.verify import Report, verify

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
        with closing(Writer(tmp_path / "shop.db", seed)) as writer:
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
    assert len(report.tables) == 10
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
