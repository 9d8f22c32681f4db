"""The locked-down DuckDB reaches nothing, even if the plan's checks were not there."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raypipe.errors import LimitExceeded
from raypipe.plan import sandbox as sandbox_module
from raypipe.plan.sandbox import Bounds, Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_blob('http://127.0.0.1:1/x')",
        "SELECT * FROM glob('/etc/*')",
        "COPY (SELECT 1) TO '{folder}/x.csv'",
        "ATTACH '{folder}/x.db'",
        "EXPORT DATABASE '{folder}/x'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT getenv('HOME')",
        "SET threads = 4",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET TimeZone = 'Asia/Tokyo'",
        "RESET memory_limit",
        "PRAGMA enable_profiling",
        "CREATE PERSISTENT SECRET s (TYPE http)",
    ],
)
def test_files_network_extensions_and_settings_are_out_of_reach(sandbox: Sandbox, sql: str, tmp_path: Path) -> None:
    with pytest.raises(duckdb.Error):
        sandbox.ask(sql.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_python_variable_is_no_table(sandbox: Sandbox) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(duckdb.CatalogException, match="secret"):
        sandbox.query("SELECT * FROM secret")
    assert secret.num_rows == 1


def test_a_statement_that_takes_too_long_is_stopped_and_the_next_one_runs() -> None:
    sandbox = Sandbox(Bounds(statement_s=0.05))
    try:
        began = time.monotonic()
        with pytest.raises(LimitExceeded, match=r"stopped after 0\.05 s"):
            sandbox.query("SELECT sum(a.range * b.range) FROM range(100_000_000) a, range(100_000_000) b")
        assert time.monotonic() - began < 60
        assert sandbox.query("SELECT 1").num_rows == 1
    finally:
        sandbox.close()


def test_a_statement_that_needs_too_much_memory_fails_and_the_next_one_runs() -> None:
    sandbox = Sandbox(Bounds(memory_bytes=32 << 20))
    try:
        with pytest.raises(LimitExceeded, match="more than 32 MiB"):
            sandbox.query("SELECT list(range) FROM range(20_000_000)")
        assert sandbox.query("SELECT 1").num_rows == 1
    finally:
        sandbox.close()


def test_the_watchdog_ends_with_its_sandbox() -> None:
    def watchdogs() -> int:
        return sum(thread.name == "sql-watchdog" for thread in threading.enumerate())

    before = watchdogs()
    closed, forgotten = Sandbox(), Sandbox(Bounds(statement_s=0.04))
    closed.query("SELECT 1")
    forgotten.query("SELECT 1")
    assert watchdogs() == before + 2
    closed.close()
    closed.close()
    del forgotten
    gc.collect()
    deadline = time.monotonic() + 60
    while watchdogs() > before and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert watchdogs() == before


def test_rows_come_out_in_the_order_they_went_in(sandbox: Sandbox) -> None:
    rows = pa.table({"n": pa.array(range(400_000)), "s": pa.array(["x", "y"] * 200_000)})
    sandbox.register("changes", rows)
    made = sandbox.query("SELECT n, upper(s) FROM changes WHERE s = 'x' OR n % 3 = 0").column(0)
    assert made.to_numpy().tolist() == [n for n in range(400_000) if n % 2 == 0 or n % 3 == 0]


def test_a_statement_that_comes_again_sees_the_rows_of_the_moment_whatever_their_types() -> None:
    sql = "SELECT sum(x) AS s FROM given"
    with closing(Sandbox()) as sandbox:
        for values, kind in (([1, 2], pa.int64()), ([], pa.int64()), ([0.5, 1], pa.float64()), ([4], pa.int32())):
            made = sandbox.run(sql, {"given": pa.table({"x": pa.array(values, kind)})})
            assert made.column("s").to_pylist() == [sum(values) if values else None]


def test_plans_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypipe.plan.sandbox._MOST_PREPARED", 2)
    rows = pa.table({"x": [1]})
    with closing(Sandbox()) as sandbox:
        for _ in range(2):
            for more in range(4):
                assert (
                    sandbox.run(f"SELECT x + {more} AS y FROM given", {"given": rows}).column(0)[0].as_py() == 1 + more
                )
        (kept,) = sandbox.ask("SELECT count(*) FROM duckdb_prepared_statements()")[0]
    assert kept == 2


@pytest.mark.parametrize("count", [0, 3, 30_000])
def test_duckdbs_inner_way_of_running_a_statement_and_its_public_one_return_the_same(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    if sandbox_module._SUBMIT is None:
        pytest.skip("this DuckDB has no inner way")
    numbers = pa.array([None, *range(count - 1)][:count], pa.int64())
    rows = pa.table(
        {
            "n": numbers,
            "f": pc.divide(pc.cast(numbers, pa.float64()), 7.0),
            "d": pc.cast(pc.divide(numbers, 10), pa.decimal128(21, 2)),
            "s": pc.cast(numbers, pa.string()),
            "t": pc.cast(numbers, pa.timestamp("us", "UTC")),
        }
    )
    sql = (
        "SELECT *, [n, 1] AS l, {'a': s, 'f': f} AS o, MAP {n::VARCHAR: d} AS m, s::BLOB AS b, n::HUGEINT * n AS h,"
        " t::DATE AS day FROM rows WHERE n IS NOT NULL"
    )
    groups = "SELECT n % 10 AS k, sum(n) AS s, avg(f) AS a, max(s) AS m, list(d) AS l FROM rows GROUP BY k ORDER BY k"
    for text in (sql, groups):
        inner = [sandbox.run(text, {"rows": part}) for part in (rows, rows.slice(1), rows)]
        with monkeypatch.context() as patched:
            patched.setattr(sandbox_module, "_SUBMIT", None)
            public = [sandbox.run(text, {"rows": part}) for part in (rows, rows.slice(1), rows)]
        for one, other in zip(inner, public, strict=True):
            assert one.schema == other.schema
            assert one.equals(other)
    for submit in (sandbox_module._SUBMIT, None):
        monkeypatch.setattr(sandbox_module, "_SUBMIT", submit)
        if count:
            with pytest.raises(duckdb.ConversionException):
                sandbox.run("SELECT ('x' || s)::INT AS x FROM rows", {"rows": rows})
        assert sandbox.run("SELECT count(*) AS n FROM rows", {"rows": rows}).to_pylist() == [{"n": count}]
