"""Values on their way: what fits its column's declared type, and what is parked until it does."""

import json
import math
from collections import Counter
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from source_scene import QUARANTINE, Database, assert_agrees, following

from raypipe.model import Op
from raypipe.sources.sqlite.types import kind_of

D = Decimal
MISFIT = object()
CASES = {
    "INTEGER": [("7", 7), (str(-(2**63)), -(2**63)), ("'7'", 7), ("1.5", MISFIT), ("'x'", MISFIT), ("x'07'", MISFIT)],
    "UNSIGNED BIG INT": [("1e3", 1000), ("9e18", 9_000_000_000_000_000_000), ("1e19", MISFIT)],
    "BOOLEAN": [("1", True), ("0", False), ("TRUE", True), ("2", MISFIT), ("'true'", MISFIT), ("1.0", True)],
    "REAL": [("0.1", 0.1), ("7", 7.0), ("'7'", 7.0), ("9e999", math.inf), ("5e-324", 5e-324), ("'x'", MISFIT)],
    "DOUBLE PRECISION": [("123456789.123456789", 123456789.123456789), ("x''", MISFIT)],
    "TEXT": [
        ("'a'", "a"),
        ("7", "7"),
        ("''", ""),
        ("'a' || char(0) || 'b'", "a\x00b"),
        ("'𝄞 ☕'", "𝄞 ☕"),
        ("x'61'", MISFIT),
        ("CAST(x'ff61' AS TEXT)", MISFIT),
        ("CAST(x'eda080' AS TEXT)", MISFIT),
    ],
    "VARCHAR(3)": [("'longer than three'", "longer than three"), ("1.5", "1.5")],
    "DATE": [
        ("'2026-02-28'", date(2026, 2, 28)),
        ("'0001-01-01'", date(1, 1, 1)),
        ("'2026-02-30'", MISFIT),
        ("'2026-2-3'", MISFIT),
        ("20260203", MISFIT),
        ("'2026-02-03 00:00:00'", MISFIT),
        ("'0000-01-01'", MISFIT),
    ],
    "DATETIME": [
        ("'2026-01-02 03:04:05'", datetime(2026, 1, 2, 3, 4, 5)),
        ("'2026-01-02T03:04:05.25'", datetime(2026, 1, 2, 3, 4, 5, 250000)),
        ("'9999-12-31 23:59:59.999999'", datetime(9999, 12, 31, 23, 59, 59, 999999)),
        *((value, MISFIT) for value in ("'2026-01-02'", "1767323045", "2460676.5", "'2026-01-02 25:00:00'")),
        *((value, MISFIT) for value in ("'2026-01-02 03:04:05.1234567'", "'2026-01-02 03:04:05Z'", "'soon'")),
    ],
    "timestamp": [("'2026-01-02 03:04:05'", datetime(2026, 1, 2, 3, 4, 5)), ("CURRENT_DATE", MISFIT)],
    "TIME": [("'03:04:05'", "03:04:05"), ("5", MISFIT)],
    "DECIMAL(10,2)": [
        ("1.5", D("1.50")),
        ("10", D("10.00")),
        ("'19.99'", D("19.99")),
        ("-0.01", D("-0.01")),
        ("99999999.99", D("99999999.99")),
        ("100000000", MISFIT),
        ("1.005", MISFIT),
        ("0.1 + 0.2", MISFIT),
        ("'abc'", MISFIT),
        ("x'31'", MISFIT),
        ("9e999", MISFIT),
        ("-9223372036854775808", MISFIT),
    ],
    "NUMERIC(38, 4)": [
        ("9223372036854775807", D("9223372036854775807.0000")),
        ("1e20", D("100000000000000000000.0000")),
        ("0.00005", MISFIT),
        ("1e300", MISFIT),
        ("123456789012345.25", D("123456789012345.2500")),
    ],
    "DECIMAL(5)": [("12345", D("12345")), ("123456", MISFIT), ("1.5", MISFIT), ("7.0", D("7"))],
    "NUMERIC": [("1.5", 1.5), (str(2**53), float(2**53)), (str(2**53 + 1), MISFIT), ("'x'", MISFIT)],
    "JSON": [("'{\"a\": [1]}'", '{"a": [1]}'), ("5", "5"), ("'5'", "5"), ("1.5", "1.5"), ("x'00'", MISFIT)],
    "STRING": [("'007'", "7"), ("'abc'", "abc")],
    "UUID": [("'c56a4180-65aa-42ec-a945-5fd21dec0538'", "c56a4180-65aa-42ec-a945-5fd21dec0538"), ("7", MISFIT)],
    "BLOB": [("x'00ff'", b"\x00\xff"), ("x''", b""), ("'text'", MISFIT), ("7", MISFIT)],
    "": [
        ("7", "7"),
        ("'7'", "'7'"),
        ("'it''s'", "'it''s'"),
        ("x'00'", "X'00'"),
        ("1.5", "1.5"),
        ("'a' || char(0)", "CAST(X'6100' AS TEXT)"),
        ("CAST(x'ff' AS TEXT)", MISFIT),
    ],
    "GEOMETRY": [("'x'", "'x'"), ("'7'", "7")],
}


@pytest.mark.parametrize("declared", CASES, ids=lambda declared: declared or "none")
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "together"])
def test_a_value_is_carried_exactly_or_its_row_is_parked(tmp_path, declared, alone):
    cases = [*CASES[declared], ("NULL", None)]
    rows = [f"({place}, {sql})" for place, (sql, _) in enumerate(cases)]
    table = f"CREATE TABLE items(id INTEGER PRIMARY KEY, v {declared})"
    expected = {place: value for place, (_, value) in enumerate(cases) if value is not MISFIT}
    with following(tmp_path, ["items"], table) as follower:
        # Alone, the driver infers the column's type from that value; together, from a mixture.
        values = {}
        for chunk in [[row] for row in rows] if alone else [rows]:
            follower.database.write(f"INSERT INTO items VALUES {', '.join(chunk)}")
            for batch in follower.step().batches:
                if str(batch.schema.table) == "shop.items":
                    assert batch.rows.schema.field("v").type == kind_of(declared).type
                    values |= dict(zip(*(batch.rows.column(name).to_pylist() for name in ("id", "v")), strict=True))
        assert values == expected
        assert {place: type(value) for place, value in values.items()} == {
            place: type(value) for place, value in expected.items()
        }
        assert follower.parked == len(cases) - len(expected)
        assert_agrees(follower)
        by_stream = Counter(follower.tables["shop.items"])
        follower.reopen(reload=["shop.items"])
        follower.drain()
        assert follower.tables["shop.items"] == by_stream  # a load gives the same bytes


ITEMS = "CREATE TABLE items(id INTEGER PRIMARY KEY, v DATE)"


def quarantined(follower):
    return [dict(row) for row in follower.tables.get(QUARANTINE, Counter()).elements()]


def test_a_row_is_parked_and_released_as_its_values_change(tmp_path):
    with following(tmp_path, ["items"], ITEMS, "INSERT INTO items VALUES (1, '2026-01-01')") as follower:
        steps = [
            ("UPDATE items SET v = 'soon'", [Op.UPDATE_BEFORE], 1),
            ("UPDATE items SET v = 'later'", [], 1),
            ("UPDATE items SET v = '2026-01-02'", [Op.UPDATE_AFTER], 0),
            ("UPDATE items SET id = 2, v = 'never'", [Op.UPDATE_BEFORE], 1),
            ("UPDATE items SET id = 3", [], 1),
            ("DELETE FROM items", [], 0),
            ("INSERT INTO items VALUES (4, 4)", [], 1),
            ("REPLACE INTO items VALUES (4, NULL)", [Op.INSERT], 0),
        ]
        for statement, ops, parked in steps:
            follower.database.write(statement)
            follower.drain()
            assert follower.ops == ops
            assert follower.parked == parked == len(quarantined(follower))
            assert_agrees(follower)


def test_the_quarantine_tells_column_and_reason_and_holds_the_row_without_loss(tmp_path):
    table = 'CREATE TABLE "my items"(id TEXT PRIMARY KEY, "when" DATE, n REAL, b BLOB, t TEXT) WITHOUT ROWID'
    with following(tmp_path, ["my items"], table) as follower:
        follower.database.write(
            """INSERT INTO "my items" VALUES ('it''s', 'soon', 0.1, x'00ff', 'a' || char(0)),"""
            """ ('b', NULL, 'x', NULL, CAST(x'ff' AS TEXT))"""
        )
        follower.drain()
        first, second = sorted(quarantined(follower), key=lambda row: row["column_name"], reverse=True)
        named = {name: eval(text) for name, text in first.items()}
        assert named["table_name"] == "my items"
        assert json.loads(named["row_key"]) == ["'it''s'"]
        assert (named["column_name"], named["reason"]) == ("when", "a text that does not fit the declared type DATE")
        literals = json.loads(named["row"])
        again = follower.database.writer.execute(f"SELECT {', '.join(literals.values())}").fetchone()
        assert again == ("it's", "soon", 0.1, b"\x00\xff", "a\0")
        assert json.loads(eval(second["row"]))["t"] == "CAST(X'ff' AS TEXT)"
        assert "soon" not in named["reason"]


def test_a_null_in_a_primary_key_is_parked(tmp_path):
    with following(tmp_path, ["items"], "CREATE TABLE items(a TEXT, b INTEGER, PRIMARY KEY (a, b))") as follower:
        follower.database.write("INSERT INTO items VALUES (NULL, 1), (NULL, 1), ('a', NULL), ('a', 1)")
        assert_agrees(follower)
        assert follower.parked == 3
        follower.database.write(
            "UPDATE items SET a = 'x' || rowid WHERE a IS NULL", "DELETE FROM items WHERE b IS NULL"
        )
        assert_agrees(follower)
        assert follower.parked == 0


def test_parked_rows_of_a_table_without_key_are_told_apart_even_after_a_vacuum(tmp_path):
    with following(tmp_path, ["items"], "CREATE TABLE items(v DATE)") as follower:
        follower.database.write("INSERT INTO items VALUES ('x'), ('x'), ('2026-01-01'), ('x')")
        assert_agrees(follower)
        follower.database.write("DELETE FROM items WHERE rowid = 1", "VACUUM", "DELETE FROM items WHERE rowid = 1")
        assert_agrees(follower)
        assert follower.parked == len(quarantined(follower)) == 1


def test_a_reload_releases_what_was_parked_and_parks_it_again(tmp_path):
    other = "CREATE TABLE other(id INTEGER PRIMARY KEY, v DATE)"
    with following(tmp_path, ["items", "other"], ITEMS, other) as follower:
        follower.database.write("INSERT INTO items VALUES (1, 'x'), (2, 'y')", "INSERT INTO other VALUES (1, 'z')")
        follower.drain()
        follower.database.write("DELETE FROM items WHERE id = 1")
        follower.reopen(reload=["shop.items"])
        assert_agrees(follower)
        assert len(quarantined(follower)) == 2
        follower.reopen(reload=[QUARANTINE])
        assert_agrees(follower)
        assert len(quarantined(follower)) == 2
        follower.database.write("DROP TABLE items", "UPDATE other SET id = 5")
        assert_agrees(follower)
        assert len(quarantined(follower)) == 1


def test_a_database_in_utf16_is_read_like_any_other(tmp_path):
    script = [
        "CREATE TABLE items(k TEXT PRIMARY KEY, v, b BLOB) WITHOUT ROWID",
        "INSERT INTO items VALUES ('é𝄞', 'ß', x'ff')",
    ]
    database = Database(tmp_path, "PRAGMA encoding='UTF-16le'", *script, journal="delete")
    follower = database.follow("items")
    follower.reopen(reload=["shop.items"])
    for _ in range(3):
        follower.step(1)
    database.write(
        "INSERT INTO items VALUES ('a' || char(0) || 'ü', 1, NULL)", "UPDATE items SET v = 'x' WHERE k > 'b'"
    )
    assert_agrees(follower)
    follower.close()
    database.writer.close()


exactly = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.decimals(-(10**12), 10**12, places=2).map(float),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.dates().map(str),
    st.datetimes().map(str),
)
DECLARED = sorted(CASES)


@settings(max_examples=25)
@given(rows=st.lists(st.tuples(*(exactly for _ in DECLARED)), min_size=1, max_size=6))
@example(rows=[tuple(-(2**63) for _ in DECLARED)])
def test_whatever_is_stored_is_carried_or_parked_alike_by_stream_load_and_view(tmp_path_factory, rows):
    columns = ", ".join(f"c{place} {declared}" for place, declared in enumerate(DECLARED))
    singles = [f"t{place}" for place in range(len(DECLARED))]
    folder = tmp_path_factory.mktemp("any")
    tables = [f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, c {DECLARED[place]})" for place, name in enumerate(singles)]
    with following(folder, ["items", *singles], f"CREATE TABLE items({columns})", *tables) as follower:
        marks = ", ".join("?" * len(DECLARED))
        for row in rows:
            follower.database.writer.execute(f"INSERT INTO items VALUES ({marks})", row)
            for name, value in zip(singles, row, strict=True):
                follower.database.writer.execute(f"INSERT INTO {name}(c) VALUES (?)", (value,))
        assert_agrees(follower)
        by_stream = {name: Counter(held) for name, held in follower.tables.items()}
        follower.reopen(reload=[f"shop.{name}" for name in follower.chosen])
        assert_agrees(follower)
        assert {name: Counter(held) for name, held in follower.tables.items()} == by_stream


def test_the_types_of_columns_follow_from_what_they_declare():
    assert kind_of("decimal( 12 , 3 )").type == pa.decimal128(12, 3)
    assert kind_of("DECIMAL(60,3)").type == pa.float64()
    assert kind_of("character varying(255)").type == pa.string()
    assert kind_of("native character").type == pa.string()
    assert kind_of("point").type == pa.int64()  # as SQLite has it: there is INT in it
    assert kind_of("timestamp  without time zone").type == pa.timestamp("us")
    assert kind_of("timestamptz").type == pa.string()
