"""The example over PostgreSQL and Kafka, by the commands that its README names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from confluent_kafka.admin import AdminClient

from cluster.services.home import Home
from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import PostgresServer
from raypipe.demo.books import connect

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "orders-postgres-kafka"

SECOND = """
pipeline: NAME_second
log: sqlite:///var/second_log.db
sources:
  first:
    url: kafka://${file:var/brokers}?prefix=NAME.shop.public
    tables: [orders]
steps:
  paid:
    sql: SELECT order_id, amount FROM first.orders WHERE status = 'paid'
sinks:
  store:
    url: duckdb:///var/second.duckdb
    tables:
      orders: {from: first.orders}
      paid: {from: paid}
"""


@pytest.fixture
def example(
    tmp_path: Path,
    services_home: Home,
    postgres18: PostgresServer,
    kafka: KafkaCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A copy under a name of its own, so that it leaves those alone who try the example themselves."""
    monkeypatch.setenv("RAYPIPE_SERVICES", str(services_home.folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    name = f"orders_{uuid.uuid4().hex[:8]}"
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("var"))
    for file in folder.iterdir():
        text = file.read_text().replace("pipeline: orders", f"pipeline: {name}")
        file.write_text(text.replace('DATABASE = "orders"', f'DATABASE = "{name}"'))
    yield folder
    raypipe(folder, "source", "remove")
    with closing(connect(postgres18.url)) as connection:
        connection.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    drop_topics(kafka, name)


def drop_topics(kafka: KafkaCluster, pipeline: str) -> None:
    """The topics that a pipeline, or one whose name begins so, has made."""
    administrator = AdminClient({"bootstrap.servers": kafka.bootstrap})
    topics = [name for name in administrator.list_topics(timeout=60).topics if name.startswith(pipeline)]
    for gone in administrator.delete_topics(topics).values() if topics else ():
        gone.result(timeout=60)


def raypipe(folder: Path, *words: str) -> str:
    return run(sys.executable, "-m", "raypipe", *words, str(folder / "pipeline.yaml"))


def run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def test_the_example_runs_with_the_two_commands_of_its_readme_and_verifies(example: Path) -> None:
    for seconds in ("0.5", "1"):
        run(sys.executable, str(example / "orders.py"), "--seconds", seconds)
        run(*(sys.executable, "-m", "raypipe", "run", str(example / "pipeline.yaml"), "--local", "--until", "idle"))
    report = json.loads(raypipe(example, "verify", "--json"))
    assert report["ok"] is True
    assert {table["table"] for table in report["tables"]} == {
        "orders",
        "paid_orders",
        "customers",
        "orders_history",
        "events",
    }
    assert all(table["rows"] for table in report["tables"])


def test_another_pipeline_reads_the_topic_that_the_first_one_writes_as_debezium(
    example: Path, postgres18: PostgresServer
) -> None:
    """PostgreSQL, raypipe, Kafka in Debezium's form, raypipe again, DuckDB: the same orders at both ends."""
    name = next(line.split()[1] for line in (example / "pipeline.yaml").read_text().splitlines() if "pipeline:" in line)
    first, second = example / "pipeline.yaml", example / "second.yaml"
    first.write_text(first.read_text().replace("?debezium=shop.orders", "?debezium=shop.orders&keep=shop.orders"))
    for round_ in range(2):
        run(sys.executable, str(example / "orders.py"), "--seconds", "0.5")
        run(*(sys.executable, "-m", "raypipe", "run", str(example / "pipeline.yaml"), "--local", "--until", "idle"))
        if round_ == 0:
            second.write_text(SECOND.replace("NAME", name))
        run(sys.executable, "-m", "raypipe", "run", str(second), "--local", "--until", "idle")
        report = json.loads(run(sys.executable, "-m", "raypipe", "verify", "--json", str(second)))
        assert report["ok"] is True
        assert all(table["rows"] for table in report["tables"])
    with closing(connect(postgres18.url_of("raypipe", postgres18.password, name))) as connection:
        there = connection.run("SELECT order_id, customer, status, amount, placed_at FROM orders ORDER BY order_id")
    with duckdb.connect(str(example / "var" / "second.duckdb"), read_only=True) as store:
        arrow = store.sql("SELECT order_id, customer, status, amount, placed_at FROM orders ORDER BY order_id")
        assert [list(row.values()) for row in arrow.to_arrow_table().to_pylist()] == there
