"""Every type through every sink, by snapshot and by stream; what comes back is also the page docs/reference/types.md.

``RAYPIPE_UPDATE=1 pytest tests/unit/sinks/test_type_round_trip.py`` writes the page again.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import adbc_driver_sqlite.dbapi
import deltalake
import duckdb
import pyarrow as pa
import pytest

from raypipe.codec import relisted
from raypipe.errors import LimitExceeded, SchemaMismatch
from raypipe.model import ChangeBatch, Column, Cut, Epoch, Image, Op, SinkTable, TableName, TableSchema
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks
from raypipe.sinks.delta.types import delta_name
from raypipe.sinks.nested import retyped
from raypipe.sinks.types import (
    STORED_TYPES,
    StoredType,
    arrow_of_sqlite,
    common_type,
    nested_stored_type,
    sqlite_type,
    stored_type,
)
from raypipe.sources.postgres.types import Catalog
from raypipe.sources.sqlite.types import kind_of

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "types.md"
NAN, INF = float("nan"), float("inf")

DAY_US, YEAR_10000, YEAR_0 = 86_400_000_000, 2_932_897, -719_529
VALUES = {
    "bool": [True, False],
    "int8": [-(2**7), 2**7 - 1],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1, 0],
    "uint8": [0, 2**8 - 1],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1, 2**63],
    "float": [0.10000000149011612, -INF, 3.4028234663852886e38, NAN, -0.0],
    "double": [0.1, INF, 5e-324, NAN, -0.0, 2.0**63],
    "decimal128(18, 2)": [Decimal("0.10"), Decimal("-9999999999999999.99"), Decimal("0.00")],
    "string": ["", "naïve ☕ 𝄞", "a\0b", "12", "1e3", " x "],
    "binary": [b"", b"\0\xff", b"text"],
    "date32[day]": [0, YEAR_10000, YEAR_0 + 366],
    "time64[us]": [0, DAY_US - 1, 3_600_000_000],
    "timestamp[us]": [0, -1, YEAR_10000 * DAY_US - 1, 1_763_900_000_123_456],
    "timestamp[us, tz=UTC]": [0, -1, 1_763_900_000_123_456],
    "timestamp[ns]": [0, 1, 1_763_900_000_123_456_789],
}
STRUCT = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])
# Rows of the page that stand for all lists and structs.
NESTED = [pa.list_(pa.int32()), pa.list_(pa.list_(pa.string())), pa.list_(pa.decimal128(18, 2)), STRUCT]
TYPES = [
    *(row.arrow for row in STORED_TYPES),
    pa.decimal128(38, 0),
    pa.decimal128(38, 38),
    pa.decimal128(20, 10),
    *(pa.list_(row.arrow) for row in STORED_TYPES),
    pa.list_(pa.list_(pa.string())),
    STRUCT,
    pa.list_(STRUCT),
]
WIDE_VALUES = {
    pa.list_(pa.list_(pa.string())): [[["a", None, ""], None, []], [], [None], [['"\\\n']]],
    STRUCT: [{"a": 2**63 - 1, "b": ["x", None]}, {"a": None, "b": None}, {"a": 0, "b": []}],
    pa.list_(STRUCT): [[{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}], []],
    pa.decimal128(38, 0): [Decimal("9" * 38), Decimal(-1)],
    pa.decimal128(38, 38): [Decimal("0." + "9" * 38), Decimal("1E-38"), Decimal(0)],
    pa.decimal128(20, 10): [Decimal("1E-10"), Decimal("-1234567890.0123456789")],
}


@dataclass(frozen=True, kw_only=True)
class Store:
    """A sink to drive, and how its own tools name the types of a table's columns."""

    url: str
    names: Callable[[Path], dict[str, str]]
    holds_nan_and_minus_zero: bool = True


def duckdb_names(folder: Path) -> dict[str, str]:
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as connection:
        described = connection.execute("SELECT column_name, data_type FROM information_schema.columns").fetchall()
    return dict(described)


def sqlite_names(folder: Path) -> dict[str, str]:
    path = str(folder / "w.db")
    with adbc_driver_sqlite.dbapi.connect(path, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, type FROM pragma_table_info('loaded')")
        return dict(cursor.fetchall())


def delta_names(folder: Path) -> dict[str, str]:
    fields = deltalake.DeltaTable(folder / "loaded").schema().fields
    return {field.name: delta_word(field.type) for field in fields}


def delta_word(found: object) -> str:
    if isinstance(found, deltalake.schema.ArrayType):
        return f"array<{delta_word(found.element_type)}>"
    if isinstance(found, deltalake.schema.StructType):
        return f"struct<{', '.join(f'{field.name}: {delta_word(field.type)}' for field in found.fields)}>"
    return found.type


STORES = {
    "DuckDB": Store(url="duckdb:///{}/w.duckdb", names=duckdb_names),
    "SQLite": Store(url="sqlite:///{}/w.db", names=sqlite_names, holds_nan_and_minus_zero=False),
    "Delta Lake": Store(url="delta:///{}", names=delta_names),
}


def held_values(arrow: pa.DataType, store: Store) -> list[object]:
    values = WIDE_VALUES.get(arrow) or VALUES.get(str(arrow))
    if values is None:  # a list: of all values and a NULL, of nothing, of NULL, and each value alone
        held = VALUES[str(arrow.value_type)]
        return [[*held, None], [], [None], *([value] for value in held)]
    if pa.types.is_floating(arrow) and not store.holds_nan_and_minus_zero:
        values = [value for value in values if value == value and str(value) != "-0.0"]
    return values


def everything(store: Store) -> pa.Table:
    """A key, and a column for each type with its hard values and NULL."""
    columns = [held_values(arrow, store) for arrow in TYPES]
    height = max(map(len, columns)) + 1
    padded = [column + [None] * (height - len(column)) for column in columns]
    arrays = [pa.array(column, arrow) for column, arrow in zip(padded, TYPES, strict=True)]
    return pa.table([pa.array(range(height)), *arrays], names=["id", *(column_name(arrow) for arrow in TYPES)])


def column_name(arrow: pa.DataType) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in str(arrow)).strip("_")


def as_changes(schema: TableSchema, rows: pa.Table, op: Op) -> ChangeBatch:
    """A TRUNCATE, then the rows."""
    shape = ChangeBatch.arrow_schema(schema)
    count = rows.num_rows + 1
    arrays = [
        pa.array([int(Op.TRUNCATE)] + [int(op)] * rows.num_rows, pa.int8()),
        pa.array([int(Image.FULL)] * count, pa.int8()),
        pa.array([1] * count, pa.int64()),
        pa.array(range(count), pa.int64()),
        pa.array([None] * count, pa.timestamp("us", tz="UTC")),
        *(pa.concat_arrays([pa.nulls(1, column.type), column.combine_chunks()]) for column in rows.columns),
    ]
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_arrays(arrays, schema=shape))


def bits(column: pa.ChunkedArray) -> pa.Array:
    """Floats as bits, also in lists, so that NaN equals NaN and -0.0 does not equal 0.0."""

    def of(array: pa.Array) -> pa.Array:
        if pa.types.is_list(array.type):
            return relisted(array, of(array.flatten()))
        return array.view(f"int{array.type.bit_width}") if pa.types.is_floating(array.type) else array

    return of(column.combine_chunks())


@pytest.fixture(scope="module", params=STORES, ids=lambda name: name.replace(" ", ""))
def journey(request, tmp_path_factory):
    """Everything into a sink, one table by snapshot and one by stream, and back."""
    store, folder = STORES[request.param], tmp_path_factory.mktemp("store")
    sent = everything(store)
    columns = tuple(Column(name=field.name, type=field.type) for field in sent.schema)
    schema = TableSchema(table=TableName("", "", "r"), columns=columns, key=("id",))
    tables = tuple(SinkTable(name=name, relation="r", schema=schema) for name in ("loaded", "streamed"))
    cut = Cut(number=1, log="log", offsets={}, positions={})
    back = {}
    for sink in open_sinks(SinkPlan(name="w", url=store.url.format(folder), tables=tables), "p"):
        sink.open(1)
        sink.begin(Epoch(after=None, upto=cut, generation=1))
        for table in sink.tables:
            sink.write(table.name, as_changes(schema, sent, Op.READ if table.name == "loaded" else Op.INSERT))
        sink.commit()
        with sink.contents() as contents:
            for table in sink.tables:
                back[table.name] = pa.Table.from_batches(contents.rows(table.name)).sort_by("id")
        sink.close()
    return request.param, sent, back, store.names(folder)


@pytest.mark.parametrize("arrow", TYPES, ids=str)
@pytest.mark.parametrize("table", ["loaded", "streamed"])
def test_a_value_comes_back_as_it_went_in(journey, table, arrow):
    _, sent, back, _ = journey
    name = column_name(arrow)
    assert back[table].schema.field(name).type == arrow
    assert bits(back[table][name]).equals(bits(sent[name]))


def test_the_page_of_types_is_what_the_stores_say(journey):
    name, *_, names = journey
    column = {"DuckDB": 1, "SQLite": 2, "Delta Lake": 4}[name]
    if os.environ.get("RAYPIPE_UPDATE"):
        PAGE.write_text(page(), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    assert text == page(), "docs/reference/types.md is not current; run this test with RAYPIPE_UPDATE=1"
    said = {cells[0]: cells[column] for line in text.splitlines() if len(cells := table_cells(line)) == 5}
    for row in rows_of_the_page():
        assert said[f"`{row.arrow}`"] == f"`{names[column_name(row.arrow)]}`"


def table_cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


SOURCE_DECLARATIONS = (
    "INTEGER",
    "BIGINT",
    "BOOLEAN",
    "REAL",
    "DOUBLE",
    "DECIMAL(18,2)",
    "NUMERIC",
    "TEXT",
    "VARCHAR(40)",
    "JSON",
    "BLOB",
    "DATE",
    "TIME",
    "DATETIME",
    "TIMESTAMP",
    "",
)


def postgres_types() -> list[str]:
    """A row of the page for each declared type, as a real catalog describes it (see tests/unit/postgres/captured)."""
    captured = json.loads((Path(__file__).parents[1] / "postgres" / "captured" / "types.json").read_text())
    catalog = Catalog(captured["types"])
    kinds = {
        declared: catalog.kind_of(int(oid), int(typmod), int(dimensions))
        for declared, oid, typmod, dimensions in captured["columns"]
    }
    return [f"| `{declared}` | `{kind.type}` | {kind.carried} |" for declared, kind in kinds.items()]


def rows_of_the_page() -> list[StoredType]:
    return [*STORED_TYPES, *(nested_stored_type(arrow) for arrow in NESTED)]


def unquoted(duckdb_type: str) -> str:
    """As DuckDB tells it: it quotes the names of a struct's fields only where it must."""
    return duckdb_type.replace('"', "")


def page() -> str:
    sources = [
        f"| {f'`{declared}`' if declared else 'nothing'} | `{kind_of(declared).type}` | {kind_of(declared).carried} |"
        for declared in SOURCE_DECLARATIONS
    ]
    sinks = [
        f"| `{row.arrow}` | `{unquoted(row.duckdb)}` | `{row.sqlite}` | {row.sqlite_form} | `{delta_name(row.arrow)}` |"
        for row in rows_of_the_page()
    ]
    template = Path(__file__).with_name("types_page.md").read_text(encoding="utf-8")
    return template.format(sources="\n".join(sources), postgres="\n".join(postgres_types()), sinks="\n".join(sinks))


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint64(), pa.int64(), pa.decimal128(20, 0)),
        (pa.int32(), pa.float64(), pa.float64()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int16(), pa.float32(), pa.float32()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int64(), pa.decimal128(18, 2), pa.decimal128(21, 2)),
        (pa.decimal128(10, 2), pa.decimal128(10, 4), pa.decimal128(12, 4)),
        (pa.int64(), pa.float64(), None),
        (pa.decimal128(38, 0), pa.decimal128(38, 2), None),
        (pa.decimal128(10, 2), pa.float64(), None),
        (pa.int64(), pa.string(), None),
        (pa.bool_(), pa.int8(), None),
        (pa.date32(), pa.timestamp("us"), None),
        (pa.string(), pa.binary(), None),
        (pa.list_(pa.int32()), pa.list_(pa.int64()), pa.list_(pa.int64())),
        (pa.list_(pa.int32()), pa.list_(pa.string()), None),
        (pa.list_(pa.int32()), pa.int32(), None),
        (pa.list_(pa.int32()), pa.list_(pa.list_(pa.int32())), None),
        (
            pa.struct([("a", pa.int8()), ("b", pa.list_(pa.float32()))]),
            pa.struct([("a", pa.int16()), ("b", pa.list_(pa.float64()))]),
            pa.struct([("a", pa.int16()), ("b", pa.list_(pa.float64()))]),
        ),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.int8()), ("b", pa.int8())]), None),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8())]), None),
    ],
    ids=str,
)
def test_a_wider_type_is_found_only_if_it_loses_nothing(one, other, common):
    assert common_type(one, other) == common_type(other, one) == common


@pytest.mark.parametrize(
    ("arrow", "stored"),
    [
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.binary(16), pa.binary()),
        (pa.decimal256(20, 2), pa.decimal128(20, 2)),
        (pa.decimal256(60, 2), None),
        (pa.decimal128(5, -2), None),
        (pa.time32("ms"), pa.time64("us")),
        (pa.timestamp("s"), pa.timestamp("us")),
        (pa.timestamp("ms", tz="Europe/Zurich"), pa.timestamp("us", tz="UTC")),
        (pa.large_list(pa.dictionary(pa.int8(), pa.string())), pa.list_(pa.string())),
        (pa.list_(pa.binary(16), 3), pa.list_(pa.binary())),
        (pa.list_view(pa.time32("s")), pa.list_(pa.time64("us"))),
        (pa.struct([("a", pa.large_string())]), pa.struct([("a", pa.string())])),
        (pa.list_(pa.null()), None),
        (pa.struct([]), None),
        (pa.struct([("a", pa.int8()), ("A", pa.int8())]), None),
        (pa.map_(pa.string(), pa.int8()), None),
        (pa.null(), None),
    ],
    ids=str,
)
def test_layouts_and_units_have_one_stored_form(arrow, stored):
    assert stored_type(arrow) == stored


@pytest.mark.parametrize("arrow", [*TYPES, pa.struct([("it's", pa.int8()), ('a "b"', pa.list_(pa.bool_()))])], ids=str)
def test_the_type_declared_in_sqlite_tells_the_type(arrow):
    told = arrow_of_sqlite(sqlite_type(arrow))
    without = pa.decimal128(20, 0)  # what SQLite keeps an uint64 as
    assert told == retyped(arrow, lambda leaf: without if pa.types.is_uint64(leaf) else leaf)


@pytest.mark.parametrize(
    "declared", ["JSON_TEXT", "JSON_TEXT '[]'", "JSON_TEXT '['", "JSON_TEXT '[\"BIG\"]'", "JSON_TEXT '{}'"]
)
def test_a_type_that_raypipe_does_not_declare_tells_nothing(declared):
    assert arrow_of_sqlite(declared) is None


@pytest.mark.parametrize(
    ("arrow", "value", "error"),
    [(pa.float64(), NAN, SchemaMismatch), (pa.timestamp("us"), 2**63 - 1, LimitExceeded)],
    ids=str,
)
def test_what_sqlite_would_silently_change_is_refused(tmp_path, arrow, value, error):
    schema = TableSchema(
        table=TableName("", "", "r"),
        columns=(Column(name="id", type=pa.int64()), Column(name="v", type=arrow)),
        key=("id",),
    )
    plan = SinkPlan(
        name="w", url=f"sqlite:///{tmp_path}/w.db", tables=(SinkTable(name="t", relation="r", schema=schema),)
    )
    [sink] = open_sinks(plan, "p")
    sink.open(1)
    sink.begin(Epoch(after=None, upto=Cut(number=1, log="log", offsets={}, positions={}), generation=1))
    rows = pa.table({"id": [1], "v": pa.array([value], arrow)})
    sink.write("t", as_changes(schema, rows, Op.READ))
    with pytest.raises(error):
        sink.commit()
    sink.close()
