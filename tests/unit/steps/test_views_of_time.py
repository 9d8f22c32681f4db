"""Views over event time and over the time of the cut: windows, sessions, interval and ASOF joins, now()."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from raypipe_view_cases import check

from raypipe.contracts import Trace
from raypipe.errors import InvariantBroken, LimitExceeded, SqlError
from raypipe.model import Column, TableName, TableSchema
from raypipe.plan import compile_step
from raypipe.plan.model import StepPlan
from raypipe.plan.views import Bilinear, Keyed, ViewPlan
from raypipe.steps.views import operators


def events(name: str, key: tuple[str, ...]) -> TableSchema:
    columns = {
        "id": pa.int64(),
        "k": pa.int64(),
        "n": pa.int64(),
        "ts": pa.timestamp("us"),
        "tz": pa.timestamp("us", "UTC"),
        "day": pa.date32(),
    }
    made = tuple(Column(name=each, type=type_) for each, type_ in columns.items())
    return TableSchema(table=TableName("shop", "main", name), columns=made, key=key)


def shop_table(name: str, columns: Mapping[str, pa.DataType]) -> TableSchema:
    made = tuple(Column(name=each, type=type_) for each, type_ in {"id": pa.int64(), **columns}.items())
    return TableSchema(table=TableName("shop", "main", name), columns=made, key=("id",))


TABLES = {"shop.a": events("a", ("id",)), "shop.b": events("b", ("id",)), "shop.c": events("c", ())}

TUMBLE = "SELECT time_bucket(INTERVAL 10 MINUTE, ts) AS starts, count(*) AS n, max(n) AS most FROM shop.a GROUP BY 1"
HOPS = "generate_series(time_bucket(INTERVAL 5 MINUTE, a.ts) - INTERVAL 10 MINUTE, time_bucket(INTERVAL 5 MINUTE, a.ts)"
HOPS += ", INTERVAL 5 MINUTE)"
SESSION = """
WITH gaps AS (
  SELECT k, id, ts, lag(ts) OVER (PARTITION BY k ORDER BY ts, id) AS before FROM shop.a WHERE ts IS NOT NULL
), sessions AS (
  SELECT k, ts, max(CASE WHEN before IS NULL OR ts - before > INTERVAL 5 MINUTE THEN ts END)
    OVER (PARTITION BY k ORDER BY ts, id) AS begins
  FROM gaps
)
SELECT k, begins, max(ts) + INTERVAL 5 MINUTE AS ends, count(*) AS n FROM sessions GROUP BY k, begins
"""
EVENT_TIME = {
    "tumbling": TUMBLE,
    "tumbling by key": "SELECT k, date_trunc('hour', tz) AS starts, sum(n) AS s FROM shop.c GROUP BY ALL",
    "hopping": f"SELECT a.k, w.starts, count(*) AS n FROM shop.a a, unnest({HOPS}) AS w(starts) GROUP BY ALL",
    "hopping laterally": "SELECT w.starts, sum(a.n) AS s FROM shop.a a "
    f"CROSS JOIN LATERAL (SELECT unnest({HOPS}) AS starts) w WHERE a.n > 0 GROUP BY ALL",
    "hopping in a subquery": f"SELECT k, starts, count(*) FROM (SELECT k, unnest({HOPS}) AS starts FROM shop.a a) "
    "GROUP BY ALL",
    "rows of rows beside a join": "SELECT a.id, b.n, w.x, v.y FROM shop.a a LEFT JOIN shop.b b ON a.k = b.k, "
    "unnest([a.n, a.k]) AS w(x), unnest([w.x, b.n]) AS v(y) WHERE w.x > 0",
    "rows of rows before joins": "SELECT a.id, v.x, b.id AS other, c.n FROM shop.a a "
    "CROSS JOIN unnest([a.n, a.k]) AS v(x) LEFT JOIN shop.b b ON b.k = v.x FULL JOIN shop.c c ON c.k = b.n",
    "rows of rows of rows": "SELECT a.id, w.y, b.id AS other FROM shop.a a, unnest([a.n, a.k]) AS v(x), "
    "unnest([v.x, 2]) AS w(y) LEFT JOIN shop.b b ON b.k = w.y WHERE a.n > 0",
    "sessions": SESSION,
    "interval join": "SELECT a.id, b.id AS other FROM shop.a a JOIN shop.b b "
    "ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL 10 MINUTE AND a.ts + INTERVAL 10 MINUTE",
    "interval left join": "SELECT a.id, b.id AS other FROM shop.a a LEFT JOIN shop.b b "
    "ON a.k = b.k AND b.ts >= a.ts AND b.ts < a.ts + INTERVAL 10 MINUTE",
    "as of": "SELECT a.id, r.n FROM shop.a a ASOF LEFT JOIN "
    "(SELECT k, ts, max(n) AS n FROM shop.b WHERE ts IS NOT NULL GROUP BY ALL) r ON a.k = r.k AND a.ts >= r.ts",
    "a range of time": "SELECT id, sum(n) OVER (PARTITION BY k ORDER BY ts "
    "RANGE BETWEEN INTERVAL 10 MINUTE PRECEDING AND CURRENT ROW) AS s FROM shop.a",
}
OF_THE_CLOCK = {
    "the last minutes": "SELECT id, n FROM shop.a WHERE ts > now() - INTERVAL 10 MINUTE",
    "the last minutes, grouped": "SELECT k, count(*) AS n FROM shop.c WHERE tz >= now() - INTERVAL 20 MINUTE "
    "GROUP BY k",
    "not yet": "SELECT id FROM shop.a WHERE current_timestamp < ts + INTERVAL 5 MINUTE AND n > 0",
    "between": "SELECT id FROM shop.a WHERE ts BETWEEN now() - INTERVAL 15 MINUTE AND now()",
    "groups that are old": "SELECT k, max(ts) AS last FROM shop.a GROUP BY k "
    "HAVING max(ts) < now() - INTERVAL 5 MINUTE",
    "days": "SELECT id, n FROM shop.a WHERE day <= today() AND day > current_date - 2",
    "today": "SELECT id FROM shop.a WHERE day = current_date",
    "joined": "SELECT a.id, b.id AS other FROM shop.a a JOIN shop.b b "
    "ON a.k = b.k AND a.ts > now() - INTERVAL 9 MINUTE",
    "within a query": "SELECT id FROM shop.a a WHERE EXISTS "
    "(SELECT 1 FROM shop.b b WHERE b.k = a.k AND b.ts > now() - INTERVAL 15 MINUTE)",
}
OF_A_WATERMARK = {
    "rows": "SELECT k, count(*) AS n FROM shop.a WHERE ts <= (SELECT max(ts) - INTERVAL 5 MINUTE FROM shop.b) "
    "GROUP BY k",
    "windows": f"SELECT * FROM ({TUMBLE}) WHERE starts + INTERVAL 10 MINUTE <= (SELECT max(ts) FROM shop.a)",
    "windows by key": "SELECT k, time_bucket(INTERVAL 10 MINUTE, ts) AS starts, sum(n) AS s FROM shop.a "
    "GROUP BY k, starts HAVING starts + INTERVAL 10 MINUTE <= (SELECT max(ts) - INTERVAL 5 MINUTE FROM shop.a)",
    "sessions": f"SELECT * FROM ({SESSION}) WHERE ends <= (SELECT max(ts) - INTERVAL 5 MINUTE FROM shop.a)",
    "of a table without a key": "SELECT DISTINCT k FROM shop.c "
    "WHERE tz < (SELECT max(tz) - INTERVAL 10 MINUTE FROM shop.c)",
}
PIVOTS = {
    "of a table": "FROM shop.c PIVOT (sum(n) FOR k IN (1, 2, 3))",
    "of a query": "SELECT p.day, p.b + 1 AS x FROM (SELECT k, day, n FROM shop.a) "
    "PIVOT (count(*) FOR k IN (1 AS a, 2 AS b)) p WHERE p.day IS NOT NULL",
    "by several columns": "WITH c AS (SELECT k, day, n, id FROM shop.a) "
    "SELECT * FROM c PIVOT (median(id) AS m, max(id) FOR k IN (1, 2) n IN (1, 2))",
    "as a statement": "PIVOT shop.a ON k IN (1, 2, NULL) USING sum(n) AS s, count(*) GROUP BY day",
    "beside a join": "WITH p AS (PIVOT shop.a ON n IN (1, 2) USING count(*) GROUP BY k) "
    "SELECT b.id, p.* FROM p JOIN shop.b b ON b.k = p.k",
}
RECOMPUTED = {
    "depths": "WITH RECURSIVE r(id, depth) AS (SELECT id, 0 FROM shop.a WHERE k IS NULL UNION ALL "
    "SELECT o.id, r.depth + 1 FROM shop.a o JOIN r ON o.k = r.id WHERE r.depth < 6) "
    "SELECT r.id, max(r.depth) AS d FROM r GROUP BY r.id",
    "reach": "WITH RECURSIVE r AS (SELECT id, id AS root FROM shop.a WHERE n > 1 UNION "
    "SELECT o.id, r.root FROM shop.b o, r WHERE o.k = r.id) SELECT * FROM r",
    "columns as rows": "UNPIVOT shop.a ON id, k INTO NAME what VALUE v",
    "some columns as rows": "SELECT day, what, v FROM shop.a UNPIVOT (v FOR what IN (id, k)) WHERE v > 1",
    "how long ago": "SELECT id, date_diff('minute', ts, now()::TIMESTAMP) AS minutes FROM shop.a "
    "WHERE ts < now() OR n > 1",
}

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "event-time.md"
SHOWN = re.findall(r"```sql\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
SHOP = {
    "shop.orders": shop_table(
        "orders",
        {"person": pa.int64(), "cents": pa.int64(), "placed_at": pa.timestamp("us"), "came_at": pa.timestamp("us")},
    ),
    "shop.clicks": shop_table("clicks", {"person": pa.int64(), "page": pa.int64(), "seen_at": pa.timestamp("us")}),
}


@pytest.mark.parametrize("sql", SHOWN, ids=lambda sql: " ".join(sql.split())[:60])
def test_what_the_how_to_shows_equals_its_sql_and_costs_what_changes(sql: str, seed: int) -> None:
    plan = compile_step("v", sql, SHOP, {})
    if isinstance(plan, StepPlan):
        return  # row by row, which other tests are about
    assert not check(sql, seed, tables=SHOP)
    assert not [each.what for each in plan.operators if isinstance(each, Keyed) and each.constant]


@pytest.mark.parametrize("what", EVENT_TIME)
def test_a_view_over_event_time_equals_its_sql(what: str, seed: int) -> None:
    for each in range(2):
        assert not check(EVENT_TIME[what], seed + each, tables=TABLES)
    plan = compile_step("v", EVENT_TIME[what], TABLES, {})
    assert isinstance(plan, ViewPlan)
    assert not [each.what for each in plan.operators if isinstance(each, Keyed) and each.constant]


@pytest.mark.parametrize("what", OF_THE_CLOCK)
def test_a_view_changes_as_time_goes_by_and_equals_its_sql(what: str, seed: int) -> None:
    for each in range(2):
        assert not check(OF_THE_CLOCK[what], seed + each, tables=TABLES)
    assert follows_a_bound(OF_THE_CLOCK[what])


@pytest.mark.parametrize("what", OF_A_WATERMARK)
def test_what_is_emitted_on_close_equals_its_sql_over_the_tables_of_the_cut(what: str, seed: int) -> None:
    for each in range(2):
        assert not check(OF_A_WATERMARK[what], seed + each, tables=TABLES)
    assert follows_a_bound(OF_A_WATERMARK[what])


@pytest.mark.parametrize("what", PIVOTS)
def test_a_pivot_with_listed_values_equals_its_sql(what: str, seed: int) -> None:
    assert not check(PIVOTS[what], seed, tables=TABLES)
    plan = compile_step("v", PIVOTS[what], TABLES, {})
    assert isinstance(plan, ViewPlan)
    assert not [each.what for each in plan.operators if isinstance(each, Keyed) and each.constant]


@pytest.mark.parametrize("what", RECOMPUTED)
def test_what_is_computed_whole_by_choice_equals_its_sql(what: str, seed: int) -> None:
    assert not check(RECOMPUTED[what], seed, tables=TABLES, recompute_rows=1000)
    with pytest.raises(SqlError):
        compile_step("v", RECOMPUTED[what], TABLES, {})


def test_a_step_that_is_computed_whole_stops_over_its_bound_and_says_so() -> None:
    with pytest.raises(LimitExceeded, match=r"Its inputs have \d+ rows, and it is to be computed whole only up to 3"):
        check(RECOMPUTED["reach"], 1, tables=TABLES, recompute_rows=3)


def follows_a_bound(sql: str) -> bool:
    """Whether only the rows that the bound passes are looked at, and nothing is computed from all rows."""
    plan = compile_step("v", sql, TABLES, {})
    assert isinstance(plan, ViewPlan)
    constant = [each.what for each in plan.operators if isinstance(each, Keyed) and each.constant]
    return not constant and any(isinstance(each, Bilinear) and each.between for each in plan.operators)


_PASSED = operators.Operators._passed


def test_rows_that_the_time_passes_and_that_are_forgotten_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: operators.Operators, plan: Bilinear, bounds: pa.Table, trace: Trace) -> pa.Table | None:
        found = _PASSED(self, plan, bounds, trace)
        return None if found is None else found.slice(0, 0)

    monkeypatch.setattr(operators.Operators, "_passed", forgetful)
    assert any(found_out(OF_THE_CLOCK["the last minutes"], each) for each in range(8))


def test_a_bound_that_moves_far_looks_at_all_rows(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(operators, "FEW_SLICES", 0)
    assert not check(OF_THE_CLOCK["between"], seed, tables=TABLES)


def found_out(sql: str, seed: int) -> bool:
    try:
        return bool(check(sql, seed, tables=TABLES))
    except (AssertionError, InvariantBroken):
        return True
