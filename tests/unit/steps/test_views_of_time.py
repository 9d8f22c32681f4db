"""Views over event time and over the time of the cut: windows, sessions, interval and ASOF joins, now()."""

from __future__ import annotations

import pyarrow as pa
import pytest
from raypipe_view_cases import check

from raypipe.model import Column, TableName, TableSchema
from raypipe.plan import compile_step
from raypipe.plan.views import Bilinear, Keyed, ViewPlan


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
    "the last minutes, grouped": "SELECT k, count(*) AS n FROM shop.c WHERE tz >= now() - INTERVAL 20 MINUTE GROUP BY k",
    "not yet": "SELECT id FROM shop.a WHERE current_timestamp < ts + INTERVAL 5 MINUTE AND n > 0",
    "between": "SELECT id FROM shop.a WHERE ts BETWEEN now() - INTERVAL 15 MINUTE AND now()",
    "groups that are old": "SELECT k, max(ts) AS last FROM shop.a GROUP BY k HAVING max(ts) < now() - INTERVAL 5 MINUTE",
    "days": "SELECT id, n FROM shop.a WHERE day <= today() AND day > current_date - 2",
    "joined": "SELECT a.id, b.id AS other FROM shop.a a JOIN shop.b b ON a.k = b.k WHERE a.ts > now() - INTERVAL 9 MINUTE",
    "newest of a table": "SELECT k, count(*) AS n FROM shop.a WHERE ts <= (SELECT max(ts) - INTERVAL 5 MINUTE FROM shop.b)"
    " GROUP BY k",
    "newest of itself": f"SELECT * FROM ({TUMBLE}) WHERE starts + INTERVAL 10 MINUTE <= (SELECT max(ts) FROM shop.a)",
}


@pytest.mark.parametrize("what", EVENT_TIME)
def test_a_view_over_event_time_equals_its_sql(what: str, seed: int) -> None:
    for each in range(3):
        assert not check(EVENT_TIME[what], seed + each, tables=TABLES)
    plan = compile_step("v", EVENT_TIME[what], TABLES, {})
    assert isinstance(plan, ViewPlan)
    assert not [each.what for each in plan.operators if isinstance(each, Keyed) and each.constant]


@pytest.mark.parametrize("what", OF_THE_CLOCK)
def test_a_view_changes_as_time_goes_by_and_equals_its_sql(what: str, seed: int) -> None:
    for each in range(4):
        assert not check(OF_THE_CLOCK[what], seed + each, tables=TABLES)
    plan = compile_step("v", OF_THE_CLOCK[what], TABLES, {})
    assert isinstance(plan, ViewPlan)
    assert any(isinstance(each, Bilinear) and each.between for each in plan.operators)
