"""From a pipeline to its plan: the same for YAML and Python, secrets filled in, all problems at once."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import pytest

from raypipe.local.assemble import assemble
from raypipe.local.reach import unreachable
from raypipe.model import Mode
from raypipe.plan.model import Plan
from raypipe.spec import Pipeline, PipelineFileError, Sink, SinkTable, Source, Step, Url, parse

FILE = """\
pipeline: shop
log: sqlite:///log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [orders, events]}
steps:
  large: {sql: SELECT id FROM paid WHERE amount > 5}
  paid: {sql: "SELECT id, amount, day FROM shop.orders WHERE paid"}
sinks:
  lake:
    url: delta:///lake
    tables:
      paid: {from: paid, partition_by: [day]}
      history: {from: shop.orders, mode: history}
  shards:
    urls: [sqlite:///0.db, sqlite:///1.db]
    tables:
      large: {from: large}
      events: {from: shop.events, key: [kind]}
limits: {epoch_bytes: 8MiB}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.executescript(
        """
        CREATE TABLE orders (id INTEGER PRIMARY KEY, amount DECIMAL(10,2), day DATE, paid BOOLEAN);
        CREATE TABLE events (kind TEXT, at TIMESTAMP);
        """
    )
    connection.close()
    return tmp_path


def planned(folder: Path, *replacements: tuple[str, str]) -> Plan:
    text = FILE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return assemble(parse(text, file="p.yaml", folder=folder))


def problems(folder: Path, *replacements: tuple[str, str]) -> list[str]:
    with pytest.raises(PipelineFileError) as caught:
        planned(folder, *replacements)
    return [str(problem) for problem in caught.value.problems]


def test_yaml_and_python_give_the_same_plan(folder: Path) -> None:
    built = Pipeline(
        pipeline="shop",
        log=Url("sqlite:///log.db"),
        sources={"shop": Source(url=Url("sqlite:///shop.db"), tables=("orders", "events"))},
        steps={
            "large": Step(sql="SELECT id FROM paid WHERE amount > 5"),
            "paid": Step(sql="SELECT id, amount, day FROM shop.orders WHERE paid"),
        },
        sinks={
            "lake": Sink(
                url=Url("delta:///lake"),
                tables={
                    "paid": SinkTable(from_="paid", partition_by=("day",)),
                    "history": SinkTable(from_="shop.orders", mode="history"),
                },
            ),
            "shards": Sink(
                urls=(Url("sqlite:///0.db"), Url("sqlite:///1.db")),
                tables={"large": SinkTable(from_="large"), "events": SinkTable(from_="shop.events", key=("kind",))},
            ),
        },
        limits={"epoch_bytes": "8MiB"},  # type: ignore[arg-type]
    )
    assert assemble(built) == planned(folder)


def test_the_plan_has_absolute_urls_steps_in_order_and_every_limit(folder: Path) -> None:
    plan = planned(folder)
    assert plan.log == f"sqlite:///{folder}/log.db"
    assert plan.instances[0].url == f"sqlite:///{folder}/shop.db"
    assert [step.name for step in plan.steps] == ["paid", "large"]
    assert plan.limits["epoch_bytes"] == 8 << 20
    assert set(plan.limits) >= {"poll_bytes", "log_bytes", "ray_data_bytes", "step_memory_bytes", "step_seconds"}
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_plan_does_not_show_its_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYPIPE_TEST_SECRET", "hunter2.db")
    secret = "sqlite:///${env:RAYPIPE_TEST_SECRET}"
    plan = planned(folder, ("sqlite:///log.db", f'"{secret}"'), ("sqlite:///1.db", f'"{secret}x"'))
    assert plan.log.endswith("/hunter2.db")
    assert "hunter2" not in repr(plan)


def test_a_table_partitioned_by_a_floating_point_number_is_refused_with_a_way_out(folder: Path) -> None:
    with pytest.raises(PipelineFileError, match=r"cannot be partitioned by mean.* DECIMAL, and take that\."):
        planned(
            folder,
            (
                "SELECT id, amount, day FROM shop.orders WHERE paid",
                "SELECT day, avg(amount) AS mean, 9 AS amount, 1 AS id FROM shop.orders GROUP BY day",
            ),
            ("partition_by: [day]", "partition_by: [mean]"),
        )


def test_sink_tables_carry_mode_key_partitions_and_the_fingerprint_of_their_view(folder: Path) -> None:
    lake, shards = planned(folder).sinks
    paid, history = lake.tables
    assert (paid.mode, paid.partition_by, paid.schema.key) == (Mode.CURRENT, ("day",), ("id",))
    assert history.mode is Mode.HISTORY
    assert shards.options["urls"] == (f"sqlite:///{folder}/0.db", f"sqlite:///{folder}/1.db")
    assert shards.tables[1].schema.key == ("kind",)  # the user's word, for a table without a key
    assert len({table.view for sink in (lake, shards) for table in sink.tables}) == 4


def test_a_view_changes_with_its_own_sql_and_with_that_below_it_but_not_with_its_table(folder: Path) -> None:
    before = {table.name: table.view for sink in planned(folder).sinks for table in sink.tables}
    with sqlite3.connect(folder / "shop.db") as connection:
        connection.execute("ALTER TABLE orders ADD COLUMN note TEXT")
    connection.close()
    changed = planned(folder, ("WHERE paid", "WHERE NOT paid"))
    after = {table.name: table.view for sink in changed.sinks for table in sink.tables}
    assert after["paid"] != before["paid"]
    assert after["large"] != before["large"]
    assert after["history"] == before["history"]
    assert after["events"] == before["events"]


def test_problems_of_all_parts_come_together(folder: Path) -> None:
    told = problems(
        folder,
        ("tables: [orders, events]", "tables: [orders, events, nothing, nobody]"),
        ("WHERE amount > 5", "WHERE amuont > 5"),
        ("partition_by: [day]", "partition_by: [dya]"),
        ("sqlite:///log.db", "sqlite:///${env:RAYPIPE_TEST_UNSET}"),
    )
    assert [line.split("  ")[1] for line in told] == [
        "log",
        "sources.shop.tables[2]",
        "sources.shop.tables[3]",
        "steps.large.sql",
        "sinks.lake.tables.paid.partition_by[0]",
    ]
    assert told[-1].endswith("(did you mean day?)")


def test_what_reads_something_broken_is_not_reported_as_well(folder: Path) -> None:
    (told,) = problems(folder, ("FROM shop.orders WHERE paid", "FROM shop.orders WHERE"))
    assert "steps.paid.sql" in told
    (told,) = problems(folder, ("tables: [orders, events]", "tables: [orders, evnts]"), ("shop.events", "shop.evnts"))
    assert "sources.shop.tables[1]" in told


def test_a_cycle_is_told_once_for_each_step_in_it_at_most(folder: Path) -> None:
    told = problems(folder, ("FROM shop.orders WHERE paid", "FROM large"))
    assert len(told) == 1
    assert "cycle" in told[0]


def test_a_key_beside_the_relations_own_is_refused(folder: Path) -> None:
    (told,) = problems(folder, ("from: shop.orders, mode: history", "from: shop.orders, mode: history, key: [amount]"))
    assert "shop.orders has the key id" in told


def test_a_list_is_planned_into_every_sink_and_refused_as_a_key(folder: Path) -> None:
    step = (
        "SELECT id, amount, day FROM shop.orders WHERE paid",
        "SELECT id, amount, day, [id, 0] AS both FROM shop.orders",
    )
    tables = ("large: {from: large}", "large: {from: large}\n      listed: {from: paid}")
    listed = planned(folder, step, tables).sinks[1].tables[1].schema
    assert [str(column.type) for column in listed.columns][-1] == "list<item: int64>"
    key = ("events: {from: shop.events, key: [kind]}", "events: {from: kinds, key: [kinds]}")
    kinds = ("  large: {sql", "  kinds: {sql: 'SELECT [kind] AS kinds FROM shop.events'}\n  large: {sql")
    [told] = problems(folder, kinds, key)
    assert "Column kinds is part of the key of events" in told


def test_places_that_cannot_be_written_are_found_without_touching_them(folder: Path) -> None:
    (folder / "lake").write_text("a file where a folder should be")
    (folder / "0.db").mkdir()
    pipeline = parse(FILE.replace("sqlite:///log.db", "sqlite:///shop.db/log.db"), file="p.yaml", folder=folder)
    told = [str(problem) for problem in unreachable(pipeline, assemble(pipeline))]
    assert [line.split("  ")[1] for line in told] == ["log", "sinks.lake.url", "sinks.shards.urls[0]"]
    assert sorted(path.name for path in folder.iterdir()) == ["0.db", "lake", "shop.db"]


def test_places_that_do_not_exist_yet_are_fine(folder: Path) -> None:
    pipeline = parse(FILE.replace("delta:///lake", "delta:///some/where/deep"), file="p.yaml", folder=folder)
    assert unreachable(pipeline, assemble(pipeline)) == []
