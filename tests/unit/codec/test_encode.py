"""A batch comes back from its bytes as it was, or not at all."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.codec import Compression, checksum, decode, encode
from raypipe.errors import Corrupt, InvariantBroken
from raypipe.model import ChangeBatch, Column, TableName, TableSchema

COLUMNS = {
    "id": (pa.int64(), "INTEGER", st.integers(-(2**63), 2**63 - 1)),
    "tiny": (pa.int8(), "TINYINT", st.integers(-128, 127)),
    "ratio": (pa.float64(), "REAL", st.floats(allow_nan=False)),
    "exact": (pa.decimal128(12, 2), "DECIMAL(12, 2)", st.decimals(-9999999, 9999999, places=2)),
    "name": (pa.string(), "TEXT", st.text(max_size=20)),
    "photo": (pa.binary(), "BLOB", st.binary(max_size=20)),
    "extra": (pa.string(), "JSON", st.just('{"a": [1, null]}')),
    "paid": (pa.bool_(), "BOOLEAN", st.booleans()),
    "day": (pa.date32(), "DATE", st.dates()),
    "at": (pa.timestamp("us"), "TIMESTAMP", st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30))),
}


def batch_of(schema: TableSchema, rows: list[tuple[object, ...]]) -> ChangeBatch:
    """A batch whose data columns hold the rows; the system columns are zero."""
    arrow = ChangeBatch.arrow_schema(schema)
    width = len(arrow) - len(schema.columns)
    arrays = [pa.array([0] * len(rows), pa.int64()).cast(field.type) for field in list(arrow)[:width]]
    for place, column in enumerate(schema.columns):
        arrays.append(pa.array([row[place] for row in rows], column.type))
    return ChangeBatch(schema=schema, rows=pa.record_batch(arrays, schema=arrow))


def orders(**changed: object) -> TableSchema:
    fields: dict[str, object] = {
        "table": TableName("shop", "main", "orders"),
        "columns": tuple(Column(name=name, type=t, declared=d) for name, (t, d, _) in COLUMNS.items()),
        "key": ("id", "name"),
        "version": 3,
    }
    return TableSchema(**{**fields, **changed})  # type: ignore[arg-type]


def row() -> tuple[object, ...]:
    moment = datetime.datetime(2026, 2, 3, 4, 5, 6, 789)
    return (1, 2, 0.5, decimal.Decimal("7.25"), "né", b"\0", "{}", True, moment.date(), moment)


@pytest.mark.parametrize("compression", Compression)
@settings(max_examples=40)
@given(rows=st.lists(st.tuples(*(st.none() | values for _, _, values in COLUMNS.values())), max_size=30))
def test_every_value_and_every_null_comes_back(compression: Compression, rows: list[tuple[object, ...]]) -> None:
    batch = batch_of(orders(), rows)
    found = decode(encode(batch, compression))
    assert found.schema == batch.schema
    assert found.rows.equals(batch.rows)


@pytest.mark.parametrize(
    "schema",
    [
        orders(),
        orders(branches=2),
        orders(key=()),
        orders(version=9, table=TableName("", "", 'a "quoted" step é')),
        orders(columns=(Column(name="only", type=pa.int64()),), key=("only",)),
    ],
)
def test_the_schema_travels_with_the_rows(schema: TableSchema) -> None:
    found = decode(encode(batch_of(schema, [])))
    assert found.schema == schema
    assert found.rows.schema == ChangeBatch.arrow_schema(schema)


def test_no_metadata_of_the_log_stays_on_the_rows() -> None:
    found = decode(encode(batch_of(orders(), [row()])))
    assert not found.rows.schema.metadata


def test_a_payload_describes_itself_to_any_arrow_reader() -> None:
    payload = encode(batch_of(orders(), [row()] * 3))
    table = pa.ipc.open_stream(payload).read_all()
    assert table.num_rows == 3
    assert table.column_names[-len(COLUMNS) :] == list(COLUMNS)


def test_a_slice_is_stored_without_its_surroundings() -> None:
    batch = batch_of(orders(), [row()] * 10_000)
    part = ChangeBatch(schema=batch.schema, rows=batch.rows.slice(5_000, 2))
    assert encode(part, Compression.NONE).size < encode(batch, Compression.NONE).size / 100
    assert decode(encode(part)).rows.equals(part.rows)


def test_rows_that_do_not_fit_their_schema_are_a_defect_and_not_stored() -> None:
    batch = batch_of(orders(), [row()])
    with pytest.raises(InvariantBroken, match=r"shop\.orders .* version 3"):
        encode(ChangeBatch(schema=batch.schema, rows=batch.rows.drop_columns(["name"])))


@pytest.mark.parametrize("payload", [b"", b"abc", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100)])
def test_bytes_that_are_no_batch_are_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(payload)


def test_a_payload_cut_short_is_corrupt() -> None:
    payload = encode(batch_of(orders(), [row()])).to_pybytes()
    end_marker = 8
    for length in range(0, len(payload) - end_marker, 97):
        with pytest.raises(Corrupt):
            decode(payload[:length])


def test_an_arrow_stream_of_somebody_else_is_corrupt() -> None:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, pa.schema([("a", pa.int64())])):
        pass
    with pytest.raises(Corrupt):
        decode(stream.getvalue())


@settings(max_examples=60)
@given(data=st.data())
def test_one_changed_bit_changes_the_checksum(data: st.DataObject) -> None:
    payload = bytearray(encode(batch_of(orders(), [row()])).to_pybytes())
    before = checksum(bytes(payload), "t/0")
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert checksum(bytes(payload), "t/0") != before


def test_the_checksum_belongs_to_a_place() -> None:
    assert checksum(b"same", "t/1") != checksum(b"same", "t/2")
