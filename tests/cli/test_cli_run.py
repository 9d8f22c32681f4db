"""``raypipe run``, ``status``, ``verify`` and ``source``: one pipeline from its first row to its proof, without Ray."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import duckdb
import pytest
from storefront import Command, Shop

from raypipe.cli.exits import Exit
from raypipe.engine.status import Status


def warehouse(shop: Shop, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(shop.folder / "var" / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_a_pipeline_runs_until_idle_is_verified_and_tells_its_status(shop: Shop, raypipe: Command) -> None:
    ran = raypipe("run", "--local", "--until", "idle")
    assert ran.code == Exit.OK, ran.err
    assert "shop: run 1 stopped after" in ran.out
    assert warehouse(shop, "SELECT order_id FROM paid_orders ORDER BY 1") == [(1,), (3,)]

    proved = raypipe("verify")
    assert proved.code == Exit.OK, proved.err
    assert "every sink equals its SQL over the source (3 tables)" in proved.out

    told = raypipe("status")
    assert told.code == Exit.OK
    assert "run 2 is stopped" in told.out  # a stopped pipeline is run by verify
    assert "warehouse" in told.out
    status = raypipe("status", "--json").json
    assert status["alive"] is False
    assert status["status"]["state"] == "stopped"


def test_the_status_names_the_state_and_what_each_step_holds(shop: Shop, raypipe: Command) -> None:
    shop.write(
        (
            "SELECT order_id, amount FROM paid_orders WHERE amount > 20",
            "SELECT customer_id, count(*) AS n FROM paid_orders GROUP BY customer_id",
        )
    )
    assert raypipe("run", "--local", "--until", "idle").code == Exit.OK
    told = raypipe("status").out
    assert "state  cut 1, " in told
    assert f"in {shop.folder / 'shop.state'}" in told
    assert "step   large_orders  1 trace  2 rows" in told
    assert "input  paid_orders   1 trace  2 rows" in told
    assert "kept by" not in told  # nobody does
    (state,) = raypipe("status", "--json").json["status"]["stateful"]
    assert state["cut"] == 1
    assert state["steps"]["large_orders"]["rows"] == 2
    assert 0 < state["bytes"] < state["limit"]


def test_the_folder_of_the_state_may_be_named_by_the_environment(
    shop: Shop, raypipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write(
        ("SELECT order_id, amount FROM paid_orders WHERE amount > 20", "SELECT count(*) AS n FROM paid_orders"),
        ("pipeline: shop\n", "pipeline: shop\nstate: ${env:RAYPIPE_TEST_FOLDER}/remembered\n"),
    )
    refused = raypipe("check")
    assert refused.code == Exit.USAGE
    assert refused.err.startswith("pipeline.yaml:2:8  state  The environment variable RAYPIPE_TEST_FOLDER is not set")
    monkeypatch.setenv("RAYPIPE_TEST_FOLDER", "elsewhere")
    assert raypipe("run", "--local", "--until", "idle").code == Exit.OK
    assert (shop.folder / "elsewhere" / "remembered").is_dir()


def test_a_step_that_would_compute_too_many_rows_again_is_told_at_plan_time_and_ends_the_run(
    shop: Shop, raypipe: Command
) -> None:
    shop.write(
        ("SELECT order_id, amount FROM paid_orders WHERE amount > 20", "SELECT median(amount) AS m FROM shop.orders"),
        ("sinks:\n", "limits: {step_rows: 1000}\nsinks:\n"),
    )
    assert "computed again from all rows at every change" in raypipe("plan").out
    assert raypipe("run", "--local", "--until", "idle").code == Exit.OK
    shop.execute(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) "
        "INSERT INTO orders SELECT i, 1, i, NULL, 'paid' FROM n"
    )
    assert raypipe("run", "--local", "--until", "idle").code == Exit.OK  # it had three rows to compute again
    shop.execute("UPDATE orders SET amount = 0 WHERE order_id = 1")
    ended = raypipe("run", "--local", "--until", "idle")
    assert ended.code == Exit.FAILED
    assert "must be computed from all of its 1,494 rows, and 1,000 are allowed" in ended.err
    assert "raise limits.step_rows" in ended.err
    assert warehouse(shop, "SELECT count(*) FROM large_orders") == [(1,)]


def test_verify_finds_what_somebody_changed_in_a_sink(shop: Shop, raypipe: Command) -> None:
    raypipe("run", "--local", "--until", "idle")
    with duckdb.connect(str(shop.folder / "var" / "warehouse.duckdb")) as connection:
        connection.execute("DELETE FROM paid_orders WHERE order_id = 1")
        connection.execute("UPDATE large_orders SET amount = 99 WHERE order_id = 3")
    ended = raypipe("verify")
    assert ended.code == Exit.FAILED
    assert "paid_orders missing: order_id=1" in ended.out
    assert "large_orders different: order_id=3" in ended.out
    assert "99" not in ended.out  # values only when asked for
    report = raypipe("verify", "--json")
    assert report.code == Exit.FAILED
    assert report.json["ok"] is False


def test_every_status_of_a_run_is_a_line_of_json_for_machines(shop: Shop, raypipe: Command) -> None:
    ended = raypipe("run", "--local", "--until", "idle", "--json")
    assert ended.code == Exit.OK
    assert Status.from_json(ended.out.splitlines()[-1]).state == "stopped"


def test_a_pipeline_that_has_not_run_says_so_and_makes_no_log(shop: Shop, raypipe: Command) -> None:
    before = shop.files()
    assert raypipe("status").out == "shop has not run yet.\n"
    assert raypipe("status", "--json").json["status"] is None
    assert shop.files() == before


def test_the_capture_is_put_in_and_taken_out_without_a_trace(shop: Shop, raypipe: Command) -> None:
    def schema() -> list[str]:
        import sqlite3

        connection = sqlite3.connect(shop.database)
        try:
            return [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY 1")]
        finally:
            connection.close()

    before = schema()
    installed = raypipe("source", "install")
    assert installed.code == Exit.OK, installed.err
    assert installed.out == "shop: changes of 3 tables are captured from now on.\n"
    assert schema() != before
    removed = raypipe("source", "remove", "--source", "shop")
    assert removed.out == "shop: no trace of the capture is left.\n"
    assert schema() == before
    refused = raypipe("source", "remove", "--source", "shpo")
    assert refused.code == Exit.USAGE
    assert "there are: shop" in refused.err


@pytest.fixture
def running(shop: Shop) -> Iterator[subprocess.Popen[str]]:
    """A run without an end, seen at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "raypipe", "run", "--local", "--json"],
        cwd=shop.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if json.loads(line)["state"] == "running":
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_without_an_end_is_ended_cleanly_by_a_signal(
    running: subprocess.Popen[str], number: signal.Signals
) -> None:
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == Exit.OK, err
    assert json.loads(out.splitlines()[-1])["state"] == "stopped"
    assert "Traceback" not in err


def test_a_running_pipeline_is_alive_and_can_be_verified(
    running: subprocess.Popen[str], shop: Shop, raypipe: Command
) -> None:
    assert raypipe("status", "--json").json["alive"] is True
    shop.execute("UPDATE orders SET status = 'paid'")
    proved = raypipe("verify", "--timeout", "60")
    assert proved.code == Exit.OK, proved.out + proved.err
    assert running.poll() is None


def test_a_run_that_was_killed_is_told_from_one_that_stopped(running: subprocess.Popen[str], raypipe: Command) -> None:
    running.kill()
    running.wait()
    told = raypipe("status")
    assert "gone without a word" in told.out
