"""What a step may not be: each refusal is one sentence with its place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from raypipe_shop_schemas import INPUTS

from raypipe.errors import RaypipeError, SchemaMismatch, SqlError
from raypipe.plan import compile_step


def refusal(sql: str) -> RaypipeError:
    with pytest.raises((SqlError, SchemaMismatch)) as caught:
        compile_step("paid", sql, INPUTS, {}, "")
    error = caught.value
    sentence, *excerpt = str(error).split("\n")
    assert sentence.startswith("Step paid ")
    assert sentence.endswith((".", "?"))
    assert error.fields["step"] == "paid"
    if excerpt:
        line, column = error.fields["line"], error.fields["column"]
        assert f"line {line}, column {column}" in sentence
        assert excerpt == [sql.split("\n")[int(str(line)) - 1], excerpt[1]]
        assert excerpt[1].rstrip() == excerpt[1]
        assert len(excerpt[1]) == column
    return error


IMPOSSIBLE = {
    "WITH RECURSIVE r AS (SELECT id FROM shop.orders UNION ALL SELECT id FROM r) FROM r": ("WITH RECURSIVE", 6),
    "FROM shop.orders UNPIVOT (v FOR n IN (amount))": ("UNPIVOT", 18),
    "UNPIVOT shop.orders ON amount INTO NAME n VALUE v": ("UNPIVOT", 1),
    "SELECT id FROM shop.orders TABLESAMPLE 10%": ("a sample", 28),
    "SELECT id FROM shop.orders USING SAMPLE 3": ("a sample", 34),
    "SELECT o.id FROM shop.orders o POSITIONAL JOIN shop.people p": ("a POSITIONAL join", 32),
}


@pytest.mark.parametrize("sql", IMPOSSIBLE)
def test_sql_that_cannot_be_kept_up_to_date_is_named_with_its_place_and_a_way_out(sql: str) -> None:
    construct, column = IMPOSSIBLE[sql]
    error = refusal(sql)
    assert f"uses {construct} (line 1, column {column}), which cannot be kept up to date; write " in error.message


UNSTEADY = {
    "SELECT reservoir_quantile(id, 0.5) FROM shop.orders": "the aggregate reservoir_quantile()",
    "SELECT last_value(id) OVER (ORDER BY status) FROM shop.orders": "last_value() over a frame of equal rows",
    "SELECT o.id FROM shop.orders o ASOF JOIN shop.people p ON o.status >= p.status": "an ASOF join",
}


@pytest.mark.parametrize("sql", UNSTEADY)
def test_sql_with_several_right_answers_is_refused_with_what_has_one(sql: str) -> None:
    error = refusal(sql)
    assert f"uses {UNSTEADY[sql]}" in error.message
    assert error.message.endswith("up to date.")


CALLS = [
    *("random()", "uuid()", "gen_random_uuid()", "nextval('x')", "currval('x')", "setseed(0.5)"),
    *("txid_current()", "age(placed_at)", "version()"),
    *("current_setting('threads')", "getenv('HOME')", "getvariable('x')", "pg_sleep(1)", "sleep_ms(1)"),
    *("current_database()", "current_schemas(true)", "error('x')", "json_serialize_sql('SELECT 1')", "ago(x)"),
    *("pg_postmaster_start_time()", "has_table_privilege('x', 'y')", "write_log('x')", "current_localtimestamp()"),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_depends_on_more_than_its_row_is_refused_by_name(call: str) -> None:
    error = refusal(f"SELECT id, {call} AS x FROM shop.orders")
    assert f"calls {call.partition('(')[0]}() (line 1, column 12)" in error.message


TIMES = {
    "SELECT id, now() AS x FROM shop.orders": "elsewhere than in a comparison",
    "SELECT id FROM shop.orders WHERE placed_at > today() OR amount > 1": "elsewhere than in a comparison",
    "SELECT id FROM shop.orders WHERE placed_at::VARCHAR < CURRENT_TIMESTAMP::VARCHAR": "elsewhere than in",
    "SELECT id FROM shop.orders WHERE age(get_current_timestamp(), placed_at) < INTERVAL 1 DAY": "elsewhere than in",
    "SELECT status, count(*) FILTER (placed_at > current_date) FROM shop.orders GROUP BY status": "elsewhere than in",
    "SELECT o.id FROM shop.orders o LEFT JOIN shop.orders p ON p.id = o.id AND o.placed_at > now()": "as a whole",
    "SELECT o.id FROM shop.orders o, shop.people p WHERE p.id = o.id AND placed_at > current_date": "is called as well",
}


@pytest.mark.parametrize("sql", TIMES)
def test_the_time_is_refused_where_no_row_comes_or_goes_by_it_and_what_works_is_named(sql: str) -> None:
    error = refusal(sql)
    assert TIMES[sql] in error.message
    assert "current_date" in error.message or "placed_at > now() - INTERVAL 7 DAY, up to date." in error.message


@pytest.mark.parametrize("word", ["localtime", "localtimestamp", "current_user", "session_user"])
def test_a_call_without_parentheses_is_refused_as_well(word: str) -> None:
    error = refusal(f"SELECT id FROM shop.orders WHERE placed_at::VARCHAR < {word}::VARCHAR")
    assert f"calls {word.lower()} (line 1, column 55)" in error.message


def test_a_pivot_without_a_list_of_values_is_refused_because_its_columns_would_change() -> None:
    error = refusal("PIVOT shop.orders ON status USING sum(amount)")
    assert "uses PIVOT (line 1, column 1) without a list of values" in error.message


def test_a_pivot_after_a_join_is_refused_because_parsers_read_it_differently() -> None:
    pivot = "PIVOT (sum(amount) FOR user IN ('a') GROUP BY placed_at)"
    error = refusal(f"SELECT * FROM shop.people p JOIN shop.orders o ON o.id = p.id {pivot}")
    assert "uses PIVOT after something else in a FROM" in error.message


def test_a_column_with_the_name_of_such_a_call_is_a_column() -> None:
    plan = compile_step("logins", 'SELECT id, user, "current_date" FROM shop.people', INPUTS, {}, "")
    assert plan.schema.names == ("id", "user", "current_date")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM parquet_scan('x')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM pragma_version()",
        "SELECT * FROM range(3)",
    ],
)
def test_a_table_function_is_refused_by_name(sql: str) -> None:
    name = sql.split()[3].partition("(")[0]
    assert f"calls the table function {name}() (line 1, column 15)" in refusal(sql).message


@pytest.mark.parametrize("table", ["'/etc/passwd'", "'orders.csv'", "information_schema.tables", "duckdb_settings"])
def test_only_tables_of_the_pipeline_can_be_read(table: str) -> None:
    error = refusal(f"SELECT * FROM {table}")
    assert isinstance(error, SchemaMismatch)
    assert f"reads {table.strip(chr(39))} (line 1, column 15)" in error.message
    assert "shop.orders, shop.people" in error.message


@pytest.mark.parametrize(
    "sql",
    [
        "COPY shop.orders TO '/tmp/x'",
        "ATTACH 'x.db'",
        "INSERT INTO shop.orders VALUES (1)",
        "SET threads = 4",
        "PRAGMA threads = 4",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
        "EXPLAIN SELECT 1",
    ],
)
def test_a_statement_that_is_no_select_is_refused_by_its_verb(sql: str) -> None:
    assert f"is the statement {sql.split()[0]} (line 1, column 1)" in refusal(sql).message


OTHERS = {
    "": "has no SQL",
    "-- nothing": "has no SQL",
    "SELECT 1; SELECT 2": "holds more than one statement (line 1, column 11)",
    "SELECT id FROM shop.orders WHERE": 'has a syntax error (line 1, column 28): syntax error at or near "WHERE"',
    "SELECT id,\n  amount +\nFROM shop.orders": "has a syntax error (line 3, column",
    "SELECT id FROM shop.orders WHERE status = 'paid": "has a syntax error (line 1, column 43)",
    "SELECT 1": "reads no table",
    "VALUES (1)": "reads no table",
    "DESCRIBE shop.orders": "reads no table",
    "SELECT nope FROM shop.orders": 'column 8): Referenced column "nope" not found in FROM clause',
    "SELECT '\u00e9\u00e9\u00e9', nope FROM shop.orders": "(line 1, column 15)",
    "SELECT status + 1 FROM shop.orders": "(line 1, column 15): No function matches",
    "SELECT lenght(status) FROM shop.orders": "calls lenght() (line 1, column 8), which DuckDB does not know."
    " Did you mean length?",
    "SELECT id, id FROM shop.orders": "makes a column id twice",
    "SELECT id, NULL AS nothing FROM shop.orders": "makes column nothing of NULL alone",
    "SELECT id, [NULL] AS nothing FROM shop.orders": "makes column nothing of NULL alone",
    "SELECT id AS _raypipe_op FROM shop.orders": "makes a column _raypipe_op",
    "SELECT COLUMNS('.*d') FROM shop.orders": "uses COLUMNS(…) (line 1, column 8)",
    "SELECT * LIKE 'i%' FROM shop.orders": "inside an expression (line 1, column 8)",
    "SELECT orders FROM shop.orders": "uses a table as if it was a column (line 1, column 8)",
    "SELECT rowid FROM shop.orders": '"rowid" not found',
    "SELECT id FROM shop.orders WHERE id = $1": "uses a parameter (line 1, column 39)",
    "SELECT id FROM shop.orders UNION ALL BY NAME SELECT id FROM shop.people": "uses UNION ALL BY NAME",
    "SELECT id FROM shop.ordres": "Did you mean shop.orders?",
    "SELECT id FROM orders": "Did you mean shop.orders?",
}


@pytest.mark.parametrize("sql", OTHERS)
def test_other_mistakes_are_told_in_one_sentence(sql: str) -> None:
    assert OTHERS[sql] in refusal(sql).message


def test_a_mistake_on_a_later_line_has_line_column_and_caret() -> None:
    error = refusal("SELECT id,\n\trandom()\nFROM shop.orders")
    assert (error.fields["line"], error.fields["column"]) == (2, 2)
    assert error.fields["excerpt"] == "\trandom()\n\t^"


def test_the_location_stands_before_the_sentence() -> None:
    with pytest.raises(SqlError, match=r"^pipeline\.yaml:12: Step paid uses a sample"):
        compile_step("paid", "SELECT id FROM shop.orders USING SAMPLE 3", INPUTS, {}, "pipeline.yaml:12")


def test_a_view_without_a_key_is_refused_where_rows_that_go_are_told_by_their_key_alone() -> None:
    inputs = {"shop.orders": replace(INPUTS["shop.orders"], key_only=True)}
    with pytest.raises(SqlError) as caught:
        compile_step("paid", "SELECT status FROM shop.orders", inputs, {}, "")
    assert "has no key, because key column id of shop.orders is not among its columns unchanged" in caught.value.message
    assert "REPLICA IDENTITY FULL" in str(caught.value)
    kept = compile_step("paid", "SELECT id, status FROM shop.orders WHERE status = 'paid'", inputs, {}, "")
    assert kept.schema.key_only
    with pytest.raises(SqlError, match="has no key"):
        compile_step("late", "SELECT status FROM paid", {"paid": kept.schema}, {}, "")
