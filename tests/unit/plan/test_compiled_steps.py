"""What a row-wise step becomes: key, types, branches and fingerprint."""

from __future__ import annotations

import pyarrow as pa
import pytest
from raypipe_shop_schemas import INPUTS, ORDERS, table

from raypipe.errors import SqlError
from raypipe.plan import StepPlan, compile_step


def planned(sql: str) -> StepPlan:
    return compile_step("view", sql, INPUTS, {"everybody": "v1"})


KEYS = {
    "SELECT id, amount FROM shop.orders": ("id",),
    "SELECT ID AS order_id FROM shop.orders": ("order_id",),
    "SELECT * FROM shop.orders WHERE amount > 3": ("id",),
    "SELECT * RENAME (id AS no) FROM shop.orders": ("no",),
    "SELECT * EXCLUDE (id) FROM shop.orders": (),
    "SELECT * REPLACE (id + 1 AS id) FROM shop.orders": (),
    "SELECT id + 0 AS id FROM shop.orders": (),
    "SELECT o.id FROM shop.orders AS o": ("id",),
    "SELECT shop.orders.id FROM shop.orders": ("id",),
    "SELECT x.a FROM (SELECT id AS a, status FROM shop.orders) AS x": ("a",),
    "SELECT a FROM (SELECT * FROM shop.orders) AS x(a, b)": ("a",),
    "WITH x(a) AS (SELECT id FROM shop.orders), y AS (FROM x WHERE a > 1) SELECT a AS b FROM y": ("b",),
    "FROM shop.orders SELECT id, status": ("id",),
    'SELECT sku, line, "order" FROM shop."order lines"': ("order", "line"),
    'SELECT sku, line FROM shop."order lines"': (),
    "SELECT text FROM shop.log": (),
    "SELECT id, unnest(tags) AS tag FROM shop.orders": (),
    "SELECT id, tag FROM shop.orders, UNNEST(tags) AS t(tag)": (),
    "SELECT id, status AS id2 FROM shop.orders UNION ALL SELECT id, status FROM shop.people": ("id",),
    "SELECT id, status FROM shop.orders UNION ALL SELECT id, text FROM (SELECT 1 AS id, text FROM shop.log)": (),
    "SELECT id FROM shop.orders UNION ALL SELECT id + 1 FROM shop.people": (),
    "SELECT status, id::VARCHAR AS x FROM shop.orders UNION ALL SELECT status, 'x' FROM shop.people": (),
    "SELECT id::DOUBLE AS id FROM shop.orders UNION ALL SELECT id FROM shop.people": (),
}


@pytest.mark.parametrize("sql", KEYS)
def test_the_key_survives_where_it_is_passed_on_unchanged(sql: str) -> None:
    plan = planned(sql)
    assert plan.schema.key == KEYS[sql]
    assert ("multiset, because" in plan.reason) == (KEYS[sql] == ())


def test_each_branch_knows_which_of_its_columns_is_the_key() -> None:
    plan = planned("SELECT id AS k, 1 AS z FROM shop.orders UNION ALL SELECT id, 2 FROM shop.people")
    assert [(branch.index, branch.relation, branch.key) for branch in plan.branches] == [
        (0, "shop.orders", ("id",)),
        (1, "shop.people", ("id",)),
    ]
    assert plan.schema.branches == 2
    assert plan.schema.columns[0].type == pa.int64()


def test_a_relation_with_branches_keeps_them_and_shifts_those_after_it() -> None:
    plan = planned("SELECT id FROM everybody UNION ALL SELECT id FROM shop.people UNION ALL SELECT id FROM everybody")
    assert [branch.index for branch in plan.branches] == [0, 2, 3]
    assert plan.schema.branches == 5


def test_a_union_inside_is_taken_apart_as_well() -> None:
    plan = planned("""
        WITH both_kinds AS (SELECT id, status FROM shop.orders UNION ALL SELECT id, status FROM shop.people)
        SELECT id, upper(status) AS status FROM both_kinds WHERE status IS NOT NULL""")
    assert [branch.relation for branch in plan.branches] == ["shop.orders", "shop.people"]
    assert plan.schema.key == ("id",)


def test_more_branches_than_a_byte_can_number_are_refused() -> None:
    with pytest.raises(SqlError, match="has 129 UNION ALL branches; 128 is the most"):
        planned(" UNION ALL ".join(["SELECT text FROM shop.log"] * 129))


def test_a_step_reads_no_more_columns_than_it_uses() -> None:
    (branch,) = planned("SELECT id, details->>'a.b' AS b FROM shop.orders WHERE Status = 'paid'").branches
    assert branch.columns == ("id", "status", "details")


def test_types_are_those_that_duckdb_gives() -> None:
    plan = planned("""
        SELECT id, amount * 2 AS twice, placed_at::DATE AS day, placed_at AT TIME ZONE 'Europe/Paris' AS paris,
        {'a': tags} AS s, details::JSON AS j, 'x'::ENUM ('x') AS e, amount > 1 AS big, NULL::INT AS n,
        id::HUGEINT AS huge
        FROM shop.orders""")
    assert {column.name: (column.type, column.declared) for column in plan.schema.columns} == {
        "id": (pa.int64(), "BIGINT"),
        "twice": (pa.decimal128(18, 2), "DECIMAL(18,2)"),
        "day": (pa.date32(), "DATE"),
        "paris": (pa.timestamp("us", "UTC"), "TIMESTAMP WITH TIME ZONE"),
        "s": (pa.struct({"a": pa.list_(pa.string())}), "STRUCT(a VARCHAR[])"),
        "j": (pa.string(), "JSON"),
        "e": (pa.string(), "ENUM('x')"),
        "big": (pa.bool_(), "BOOLEAN"),
        "n": (pa.int32(), "INTEGER"),
        "huge": (pa.decimal128(38, 0), "HUGEINT"),
    }


def test_the_sql_that_runs_is_printed_from_duckdbs_own_tree() -> None:
    # sqlglot would print these otherwise than they were written: LOG(10, x), '$.a.b', LENGTH.
    (branch,) = planned("SELECT id, log10(amount), details->>'a.b', len(tags) FROM shop.orders").branches
    assert branch.sql == (
        "SELECT _raypipe_row, id, log10(amount), (details ->> 'a.b'), len(tags) FROM changes AS orders"
    )


def test_blanks_and_comments_do_not_change_the_fingerprint_and_everything_else_does() -> None:
    view = planned("SELECT id FROM shop.orders WHERE status = 'paid'").view
    assert planned("SELECT id -- the key\nFROM shop.orders\n  WHERE status='paid';").view != ""
    assert planned("SELECT id -- the key\n  FROM shop.orders   WHERE status = 'paid'").view == view
    assert planned("SELECT id FROM shop.orders WHERE status = 'Paid'").view != view


def test_the_fingerprint_follows_the_inputs() -> None:
    sql = "SELECT * FROM everybody"
    assert compile_step("a", sql, INPUTS, {"everybody": "v1"}).view != compile_step("a", sql, INPUTS, {}).view
    wider = table(
        "shop.orders", {**dict(zip(ORDERS.names, ORDERS.arrow().types, strict=True)), "x": pa.int8()}, ("id",)
    )
    star, named = "SELECT * FROM shop.orders", "SELECT id FROM shop.orders"
    after = {**INPUTS, "shop.orders": wider}
    assert compile_step("a", star, INPUTS, {}).view != compile_step("a", star, after, {}).view
    assert compile_step("a", named, INPUTS, {}).view == compile_step("a", named, after, {}).view
