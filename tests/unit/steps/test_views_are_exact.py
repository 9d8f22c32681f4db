"""At every cut a stateful step holds what its SQL returns: fixed statements, and operators with defects."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from raypipe_memory_state import MemoryState
from raypipe_view_cases import TABLES, check

from raypipe.contracts import WEIGHT
from raypipe.errors import InvariantBroken, LimitExceeded, SqlError
from raypipe.plan import compile_step
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views import Algebraic, Keyed, ViewPlan
from raypipe.steps.views import View, operators
from raypipe.steps.views.multiset import Multiset, empty

STATEMENTS = [
    "SELECT k, count(*) n, sum(price) s, avg(x) ax, min(name) mn, max(day) FROM shop.a GROUP BY k",
    "SELECT k + 1 AS c, count(*) n FROM shop.a WHERE name > 'a' GROUP BY 1 HAVING count(*) > 1",
    "SELECT count(*) n, sum(x) FROM shop.a",
    "SELECT max(day), min(small), max(x), count(name) n FROM shop.c",
    "SELECT k, min(price) FILTER (flag) a, max(name), max(x), min(day), sum(id) FROM shop.c GROUP BY k",
    "SELECT k, small % 2 AS h, sum(price + 1) s, avg(small), count_if(flag), count(*) FILTER (x > 0.1)"
    " FROM shop.a WHERE name > 'a' GROUP BY k, h",
    "SELECT x, count(*) n, sum(DISTINCT k) FROM shop.a GROUP BY x",
    "SELECT name, day, count(DISTINCT k) a, count(DISTINCT k) FILTER (flag) b, sum(DISTINCT price) FILTER (k > 1) c,"
    " avg(DISTINCT small) d, min(DISTINCT x) e, count(*) n FROM shop.c GROUP BY name, day HAVING count(DISTINCT k) < 3",
    "SELECT count(DISTINCT x) a, count(DISTINCT k + small) b, max(price) c FROM shop.a WHERE flag",
    "SELECT x, day, max(price) - min(price) spread FROM shop.c GROUP BY x, day HAVING count(*) > 1",
    "SELECT k, name, count(*), grouping(k) g FROM shop.a GROUP BY ROLLUP (k, name)",
    "SELECT k, list(name), first(name), string_agg(name, ','), arg_min(id, price), mode(day) FROM shop.c GROUP BY ALL",
    "SELECT k, median(price) m, quantile_cont(small, 0.3), stddev(x), array_agg(DISTINCT name) FROM shop.c GROUP BY k",
    "SELECT DISTINCT k, x FROM shop.c",
    "SELECT DISTINCT ON (k) k, id, x FROM shop.a ORDER BY k, price DESC",
    "SELECT id, price FROM shop.a ORDER BY price DESC LIMIT 3",
    "SELECT id, k, row_number() OVER (PARTITION BY k ORDER BY price) rn FROM shop.a QUALIFY rn <= 2",
    "SELECT sum(price) OVER (PARTITION BY k) a, rank() OVER (PARTITION BY name ORDER BY price) b FROM shop.c",
    "SELECT id, lag(name) OVER w, first_value(id) OVER (PARTITION BY k) FROM shop.a"
    " WINDOW w AS (PARTITION BY k ORDER BY day)",
    "SELECT k, sum(sum(price)) OVER (ORDER BY k) FROM shop.a GROUP BY k",
    "SELECT o.id, p.name, c.x FROM shop.a o JOIN shop.b p ON o.k = p.small"
    " JOIN shop.c c ON c.name = p.name AND c.day > o.day",
    "SELECT p.name, sum(o.price) FROM shop.a o, shop.b p, shop.c m WHERE o.k = p.id AND m.small = o.k GROUP BY 1",
    "SELECT o.id, p.name FROM shop.a o LEFT JOIN shop.b p ON o.k = p.small AND p.name > 'a'",
    "SELECT o.id, p.name FROM shop.a o RIGHT JOIN shop.c p ON o.k = p.k WHERE o.id IS NULL OR o.price > 1",
    "SELECT o.id, p.id AS pid, o.k FROM shop.a o FULL JOIN shop.b p ON o.k = p.small",
    "SELECT o.id FROM shop.a o ANTI JOIN shop.c m ON o.k = m.k",
    "SELECT o.id FROM shop.a o SEMI JOIN shop.c m ON o.k = m.k AND o.price < m.price",
    "SELECT o.id, p.name FROM shop.a o ASOF LEFT JOIN shop.b p ON o.k = p.k AND o.small >= p.id",
    "SELECT a.id, b.id AS bid FROM shop.a a JOIN shop.a b ON a.k = b.id AND a.price > b.price",
    "SELECT a.id, b.id bid FROM shop.a a LEFT JOIN shop.b b ON a.x < b.x",
    "SELECT id FROM shop.a o WHERE EXISTS (SELECT 1 FROM shop.c m WHERE m.k = o.k)",
    "SELECT id FROM shop.a o WHERE k IN (SELECT k FROM shop.c) AND small NOT IN (SELECT id FROM shop.b)",
    "SELECT id, k IN (SELECT k FROM shop.c) AS y FROM shop.a",
    "SELECT id, (SELECT max(name) FROM shop.c m WHERE m.k = o.k) mx FROM shop.a o",
    "SELECT id FROM shop.a WHERE price > (SELECT avg(price) FROM shop.a)",
    "SELECT o.id, x.n FROM shop.a o, LATERAL (SELECT count(*) n FROM shop.b p WHERE p.small = o.k) x",
    "SELECT k FROM shop.a UNION SELECT small FROM shop.c",
    "SELECT k FROM shop.a EXCEPT ALL SELECT k FROM shop.c",
    "SELECT k, name FROM shop.a INTERSECT SELECT k, name FROM shop.c",
    "WITH t AS (SELECT k, sum(price) s FROM shop.a GROUP BY k) SELECT u.k, v.s FROM t u JOIN t v ON u.k = v.k + 1",
    # Two columns of one side that equal one column of the other.
    "SELECT a.id, b.id AS bid FROM shop.a a JOIN shop.b b ON a.k = b.k AND a.small = b.k",
    "SELECT a.id, b.id AS bid FROM shop.a a LEFT JOIN shop.b b ON a.k = b.k AND a.id = b.k",
    "SELECT id FROM shop.a a WHERE EXISTS (SELECT 1 FROM shop.c m WHERE m.k = a.k AND m.k = a.id)",
    # Windows that must agree on which of two equal rows comes first.
    "SELECT row_number() OVER (PARTITION BY k ORDER BY price), lag(name) OVER (PARTITION BY k ORDER BY day)"
    " FROM shop.a",
    # What a subquery computes of its own rows, in the words that the query around it uses for its rows.
    "SELECT k, count(*) n FROM shop.a GROUP BY k HAVING count(*) > (SELECT count(*) FROM shop.b) - 2",
    "SELECT k, sum(price) n FROM shop.a GROUP BY k HAVING sum(price) >= (SELECT sum(price) * 0.2 FROM shop.a)",
    "SELECT k, sum(price) n, (SELECT max(name) FROM shop.b WHERE small = a.k) FROM shop.a GROUP BY k",
    "SELECT k, x, count(*) FROM (SELECT k, x FROM shop.a UNION ALL SELECT small, x FROM shop.c) GROUP BY k, x",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_a_view_equals_its_sql_at_every_cut(sql: str, seed: int) -> None:
    assert not check(sql, seed % 2**32)


def _without_null_keys(self: Multiset, parts: object) -> pa.Table:
    found = _KEYS(self, parts)  # type: ignore[arg-type]
    return found.filter(pc.is_valid(found.column(0))) if found.num_columns else found


def _every_row_once(rows: pa.Table, relation: str) -> pa.Table:
    return rows.drop_columns([WEIGHT])


def _left_changes_alone(
    self: operators.Operators, plan: object, left: pa.Table, right: pa.Table, *rest: object
) -> pa.Table:
    return _BILINEAR(self, plan, left, right.slice(0, 0), *rest)  # type: ignore[arg-type]


def _result_forgotten(rows: pa.Table) -> pa.Table:
    return rows.slice(0, 0)


_KEYS, _BILINEAR = Multiset.keys, operators.Operators.bilinear
MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "a NULL key is ignored": (
        lambda patch: patch.setattr(Multiset, "keys", _without_null_keys),
        "SELECT k, count(*) n FROM shop.c GROUP BY k",
    ),
    "a weight is dropped": (
        lambda patch: patch.setattr(operators, "expanded", _every_row_once),
        "SELECT k, list(small) n FROM (SELECT k, small FROM shop.c) GROUP BY k",
    ),
    "one side of a join is probed only": (
        lambda patch: patch.setattr(operators.Operators, "bilinear", _left_changes_alone),
        "SELECT a.id, b.name FROM shop.a a JOIN shop.b b ON a.k = b.small",
    ),
    "what was there before is forgotten": (
        lambda patch: patch.setattr(operators, "negated", _result_forgotten),
        "SELECT k, count(*) n FROM shop.a GROUP BY k",
    ),
}


def _sums_without_weights(self: operators.Operators, plan: object, changes: pa.Table, *others: pa.Table) -> pa.Table:
    ones = pa.array(np.ones(changes.num_rows, np.int64))
    return _ADDED(self, plan, changes.set_column(changes.num_columns - 1, WEIGHT, ones), *others)  # type: ignore[arg-type]


def _as_they_were(
    self: operators.Operators, plan: object, changes: pa.Table, before: pa.Table, lost: pa.Table, traces: object
) -> pa.Table:
    return lost


_ADDED = operators.Operators._added
MUTANTS["a sum does not know what goes"] = (
    lambda patch: patch.setattr(operators.Operators, "_added", _sums_without_weights),
    "SELECT k, sum(small) n FROM shop.a GROUP BY k",
)
MUTANTS["a maximum that went is kept"] = (
    lambda patch: patch.setattr(operators.Operators, "_again", _as_they_were),
    "SELECT flag, max(id) n FROM shop.a GROUP BY flag",
)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_an_operator_with_a_defect_is_found_out(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install, sql = MUTANTS[mutant]
    assert not any(check(sql, seed) for seed in range(4))
    install(monkeypatch)
    found = False
    for seed in range(12):
        try:
            found = found or bool(check(sql, seed))
        except (AssertionError, InvariantBroken):
            found = True
    assert found


@pytest.mark.parametrize(
    ("aggregate", "added"),
    [
        ("count(*)", 1),
        ("sum(k)", 1),
        ("avg(price)", 1),
        ("max(x)", 1),
        ("sum(x)", 0),
        ("median(k)", 0),
        # The different values are groups of their own.
        ("sum(DISTINCT k)", 2),
        ("count(DISTINCT x), max(DISTINCT x), sum(DISTINCT k)", 5),
        ("sum(DISTINCT x)", 0),
        ("count(DISTINCT k), median(k)", 0),
    ],
)
def test_groups_are_added_to_where_that_is_exact(aggregate: str, added: int) -> None:
    plan = compile_step("v", f"SELECT name, {aggregate} AS a FROM shop.a GROUP BY name", TABLES, {})
    assert isinstance(plan, ViewPlan)
    assert sum(isinstance(operator, Algebraic) for operator in plan.operators) == added


def test_a_view_without_a_key_is_bounded_and_says_so() -> None:
    plan = compile_step("v", "SELECT median(k) AS n FROM shop.a", TABLES, {})
    assert isinstance(plan, ViewPlan)
    assert [operator.constant for operator in plan.operators if isinstance(operator, Keyed)] == [True]
    assert "computed again whenever something there changes" in plan.reason
    assert empty(plan.schema.arrow()).num_rows == 0


def test_a_view_that_needs_all_rows_stops_over_the_limit_and_says_how_to_go_on() -> None:
    plan = compile_step("v", "SELECT median(k) AS n FROM shop.a", TABLES, {})
    assert isinstance(plan, ViewPlan)
    with closing(Sandbox()) as sandbox, closing(MemoryState(plan.traces)) as state:
        view = View(plan, sandbox, most_rows=3)
        for version in range(2):
            rows = pa.table({"k": pa.array([1, 2, 3, 4 + version], pa.int64())})
            changes = {"shop.a": rows.append_column(WEIGHT, pa.array([1] * 4, pa.int64()))}
            work = state.begin(version - 1 if version else None)
            if version:
                with pytest.raises(LimitExceeded, match="from all of its 4 rows, and 3 are allowed") as caught:
                    view.run(changes, work, first=False, at=0.0)
                assert "raise limits.step_rows" in caught.value.remedy
            else:
                view.run(changes, work, first=True, at=0.0)
                work.commit(version)


def test_windows_that_number_equal_rows_each_in_its_own_order_are_refused_where_rows_have_no_key() -> None:
    sql = (
        "SELECT row_number() OVER (PARTITION BY k ORDER BY price), lag(name) OVER (PARTITION BY k ORDER BY day) "
        "FROM shop.c"
    )
    with pytest.raises(SqlError, match="each in its own order"):
        compile_step("v", sql, TABLES, {})
