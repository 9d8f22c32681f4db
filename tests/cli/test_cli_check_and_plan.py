"""``raypipe check`` and ``raypipe plan``: everything that is wrong at once, and no side effects."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from storefront import Command, Shop

from cluster.services.kafka import KafkaCluster
from raypipe.cli.exits import Exit


def test_a_right_file_is_fine(shop: Shop, raypipe: Command) -> None:
    ended = raypipe("check")
    assert ended.code == Exit.OK, ended.err
    assert ended.out == "pipeline.yaml: pipeline shop is fine: 1 source with 3 tables, 2 steps, 1 sink.\n"
    assert raypipe("check", "--json").json == {"ok": True, "pipeline": "shop", "problems": []}


@pytest.mark.parametrize("command", ["check", "plan"])
def test_neither_check_nor_plan_changes_anything(shop: Shop, raypipe: Command, command: str) -> None:
    before = shop.files()
    assert raypipe(command).code == Exit.OK
    assert shop.files() == before


def test_problems_of_sources_steps_and_sinks_are_told_together_with_their_lines(shop: Shop, raypipe: Command) -> None:
    shop.write(
        ("tables: [customers, orders, events]", "tables: [customers, ordrs, orders, events]"),
        ("WHERE status = 'paid'", "WHERE statsu = 'paid'"),
        ("      events: {from: shop.events}\n", "      events: {from: shop.events, key: [ordr]}\n"),
    )
    ended = raypipe("check")
    assert ended.code == Exit.USAGE
    lines = ended.err.splitlines()
    assert lines[0].startswith("pipeline.yaml:4:")
    assert "sources.shop.tables[1]" in lines[0]
    assert "'ordrs'" in lines[0]
    # Line 11 of the file is line 2 of the step, and the caret stands under the column.
    assert lines[1].startswith("pipeline.yaml:11:30  steps.paid_orders.sql")
    assert "status" in lines[1]
    assert lines[2] == "    FROM shop.orders WHERE statsu = 'paid'"
    assert lines[3] == " " * 27 + "^"
    assert lines[4].startswith("pipeline.yaml:18:")
    assert lines[4].endswith("(did you mean order?)")
    # large_orders reads the broken step: that follows, and is not told.
    assert len(lines) == 5


def test_a_syntax_error_is_shown_with_line_and_caret(shop: Shop, raypipe: Command) -> None:
    shop.write(("FROM shop.orders WHERE", "FORM shop.orders WHERE"))
    ended = raypipe("check")
    assert ended.code == Exit.USAGE
    assert "pipeline.yaml:11:" in ended.err
    assert "syntax error" in ended.err
    assert ended.err.splitlines()[-1].strip() == "^"
    (problem,) = raypipe("check", "--json").json["problems"]
    assert problem["line"] == 11
    assert problem["path"] == "steps.paid_orders.sql"


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT order_id FROM shop.orders USING SAMPLE 3", "a sample"),
        ("SELECT reservoir_quantile(amount, 0.5) AS q FROM shop.orders", "reservoir_quantile"),
        ("SELECT order_id, random() AS r FROM shop.orders", "random"),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
        ("SELECT * FROM '/etc/passwd'", "/etc/passwd"),
        ("SELECT * FROM paid_orders", "itself"),
        ("SELECT order_id, customer_id, amount FROM large_orders", "cycle"),
        ("SELECT * FROM shop.nothing", "shop.nothing"),
        ("DROP TABLE shop.orders", "DROP"),
        ("SELECT 1; SELECT 2", "more than one"),
    ],
)
def test_sql_that_cannot_run_is_refused_by_name_at_its_line(shop: Shop, raypipe: Command, sql: str, says: str) -> None:
    shop.write(
        (
            "SELECT order_id, customer_id, amount, placed_at::DATE AS day\n"
            "      FROM shop.orders WHERE status = 'paid'",
            sql,
        )
    )
    ended = raypipe("check")
    assert ended.code == Exit.USAGE
    assert says in ended.err
    assert "steps." in ended.err
    assert "pipeline.yaml:" in ended.err


def test_a_source_that_is_away_is_no_mistake_of_the_file(shop: Shop, raypipe: Command) -> None:
    shop.database.unlink()
    ended = raypipe("check")
    assert ended.code == Exit.UNAVAILABLE
    assert "shop.db does not exist" in ended.err


def test_a_secret_that_is_not_set_is_told_at_its_line(shop: Shop, raypipe: Command) -> None:
    shop.write(('"sqlite:///shop.db"', '"sqlite:///${env:RAYPIPE_TEST_UNSET}"'))
    ended = raypipe("check")
    assert ended.code == Exit.USAGE
    assert ended.err.startswith("pipeline.yaml:4:15  sources.shop.url  The environment variable RAYPIPE_TEST_UNSET")


def test_a_log_that_could_not_be_written_is_told(shop: Shop, raypipe: Command) -> None:
    Path("var").write_text("in the way")
    ended = raypipe("check")
    assert ended.code == Exit.USAGE
    assert ended.err.count("is a file, so nothing can be made below it") == 2  # the log and the warehouse


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("kafka://127.0.0.1:1", "does not answer"),
        ("kafka://127.0.0.1:1?debezium=shop.none", "shop.none, which is no table here"),
        ("kafka+sasl://me:hunter2@127.0.0.1:1?mechanism=none", "The mechanism 'NONE' is not known"),
    ],
)
def test_a_kafka_log_that_could_not_be_used_is_told_at_its_line_without_the_password(
    shop: Shop, raypipe: Command, log: str, says: str
) -> None:
    shop.write(("sqlite:///var/log.db", log))
    ended = raypipe("check")
    assert ended.code == Exit.USAGE
    assert ended.err.startswith("pipeline.yaml:2:6  log  ")
    assert says in ended.err
    assert "hunter2" not in ended.out + ended.err


def test_check_of_a_kafka_log_makes_no_topics(shop: Shop, raypipe: Command, kafka: KafkaCluster) -> None:
    name = f"check{uuid.uuid4().hex[:8]}"
    shop.write(("sqlite:///var/log.db", f"kafka://{kafka.bootstrap}"), ("pipeline: shop", f"pipeline: {name}"))
    assert raypipe("check").code == Exit.OK
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=60).topics
    assert not [topic for topic in topics if topic.startswith(name)]


def test_a_key_other_than_the_relations_own_is_refused(shop: Shop, raypipe: Command) -> None:
    shop.write(("{from: large_orders}", "{from: large_orders, key: [amount]}"))
    ended = raypipe("check")
    assert ended.code == Exit.USAGE
    assert "large_orders has the key order_id; another can be given only where there is none" in ended.err


def test_the_plan_says_how_each_step_runs_and_why(shop: Shop, raypipe: Command) -> None:
    ended = raypipe("plan")
    assert ended.code == Exit.OK, ended.err
    assert "step paid_orders: row-wise" in ended.out
    assert "reads  shop.orders" in ended.out
    assert "makes  order_id, customer_id, amount, day (key order_id)" in ended.out
    assert ended.out.index("step paid_orders") < ended.out.index("step large_orders")
    assert "shop.events     3 columns  no key: a multiset of rows" in ended.out


def test_the_plan_draws_the_operators_of_a_stateful_step_with_what_they_keep_and_cost(
    shop: Shop, raypipe: Command
) -> None:
    shop.write(
        (
            "SELECT order_id, amount FROM paid_orders WHERE amount > 20",
            "SELECT customer_id, sum(amount) AS total FROM paid_orders GROUP BY customer_id",
        )
    )
    ended = raypipe("plan")
    assert ended.code == Exit.OK, ended.err
    assert "step large_orders: stateful" in ended.out
    assert "rows are identified by customer_id" in ended.out
    assert "changes of paid_orders" in ended.out
    assert "by customer_id  keeps its sums  costs the changes" in ended.out
    (step,) = [step for step in raypipe("plan", "--json").json["steps"] if step["name"] == "large_orders"]
    assert step["runs"] == "stateful"
    assert step["reads"] == ["paid_orders"]


def test_the_plan_says_which_steps_have_operators_and_traces_in_common(shop: Shop, raypipe: Command) -> None:
    grouped = "SELECT customer_id, count(*) AS n, max(amount) AS most FROM paid_orders GROUP BY customer_id"
    shop.write(
        (
            "SELECT order_id, amount FROM paid_orders WHERE amount > 20",
            f"{grouped}\n  regular:\n    sql: SELECT customer_id, n FROM ({grouped}) WHERE n > 3\n"
            f"  least:\n    sql: {grouped.replace('max', 'min')}",
        )
    )
    ended = raypipe("plan")
    assert ended.code == Exit.OK, ended.err
    steps = {step["name"]: step for step in raypipe("plan", "--json").json["steps"]}
    (shared,) = [made["shared"] for made in steps["regular"]["operators"] if made["shared"]]
    assert shared == "runs once with large_orders; rows of #1 by customer_id kept once with least"
    assert shared in ended.out


def test_the_plan_says_which_side_of_a_join_needs_no_copy_of_its_table(shop: Shop, raypipe: Command) -> None:
    joined = "SELECT o.order_id, c.name FROM paid_orders o JOIN shop.customers c ON c.customer_id = o.customer_id"
    shop.write(("SELECT order_id, amount FROM paid_orders WHERE amount > 20", joined))
    ended = raypipe("plan")
    assert ended.code == Exit.OK, ended.err
    assert "by customer_id  keeps #0, finds #1 in its table  costs the changes and their matches" in ended.out


def test_the_plan_for_machines_holds_no_secret(shop: Shop, raypipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "duckdb:///var/hunter2.duckdb")
    shop.write(('"duckdb:///var/warehouse.duckdb"', '"${env:WAREHOUSE}"'))
    ended = raypipe("plan", "--json")
    assert ended.code == Exit.OK, ended.err
    assert "hunter2" not in ended.out
    plan = ended.json
    assert plan["sinks"][0]["urls"] == ["${env:WAREHOUSE}"]
    assert [step["name"] for step in plan["steps"]] == ["paid_orders", "large_orders"]
    assert plan["sources"][0]["cuts"] == "no cut holds a part of a transaction"
    assert {table["topic"] for table in plan["sources"][0]["tables"]} == {
        f"shop.shop.main.{table}" for table in ("customers", "events", "orders")
    }


def test_a_step_that_nothing_reads_is_warned_of_and_passes(shop: Shop, raypipe: Command) -> None:
    shop.write(("      large_orders: {from: large_orders}\n", ""))
    ended = raypipe("check")
    assert ended.code == Exit.OK
    assert "steps.large_orders  warning:  No sink table and no other step reads this step" in ended.err
    assert raypipe("check", "--json").json["problems"][0]["severity"] == "warning"


def test_check_starts_quickly_because_it_loads_no_ray(shop: Shop) -> None:
    """The benchmark "startup" holds the command to two seconds; a test on a busy machine cannot."""
    import subprocess
    import sys

    script = "import sys; from raypipe.cli.app import main\ntry: main()\nfinally: print('ray' in sys.modules)"
    command = [sys.executable, "-c", script, "check"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=shop.folder)
    assert ended.stdout.splitlines()[-1] == "False"
