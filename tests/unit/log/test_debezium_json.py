"""A batch comes back from Debezium's JSON as it was: every type, every kind of change."""

from __future__ import annotations

import datetime as dt
import json
import math
from contextlib import closing
from decimal import Decimal

import pyarrow as pa
import pytest

from raypipe.errors import Corrupt, SchemaMismatch
from raypipe.log.kafka.debezium import DebeziumJson, Messages, schema_header
from raypipe.model import ChangeBatch, Column, Image, Op, TableName, TableSchema

UTC = dt.UTC
VALUES: dict[str, tuple[pa.DataType, list[object]]] = {
    "flag": (pa.bool_(), [True, False]),
    "tiny": (pa.int8(), [-128, 127]),
    "small": (pa.int16(), [-(2**15), 2**15 - 1]),
    "int": (pa.int32(), [-(2**31), 2**31 - 1]),
    "big": (pa.int64(), [-(2**63), 2**63 - 1]),
    "huge": (pa.uint64(), [0, 2**64 - 1]),
    "single": (pa.float32(), [0.1, -3.4028234663852886e38]),
    "double": (pa.float64(), [0.1 + 0.2, 5e-324]),
    "odd": (pa.float64(), [math.inf, -math.inf]),
    "money": (pa.decimal128(38, 10), [Decimal("-1234567890123456789012345678.0000000001"), Decimal("0E-10")]),
    "wide": (pa.decimal128(20, 0), [Decimal(10**19), Decimal(-1)]),
    'te"xt': (pa.string(), ['quote " backslash \\ newline \n', "naïve \U0001f600 \x01 '"]),
    "long": (pa.large_string(), ["", "x"]),
    "bytes": (pa.binary(), [b"\x00\xff", b""]),
    "day": (pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
    "clock": (pa.time64("us"), [dt.time(0), dt.time(23, 59, 59, 999999)]),
    "local": (pa.timestamp("us"), [dt.datetime(1, 1, 1), dt.datetime(2026, 11, 27, 1, 2, 3, 4)]),
    "moment": (pa.timestamp("us", "UTC"), [dt.datetime(2026, 1, 1, tzinfo=UTC), dt.datetime(1, 1, 1, tzinfo=UTC)]),
    "nano": (pa.timestamp("ns"), [0, 1]),
    "word": (pa.dictionary(pa.int32(), pa.string()), ["a", "b"]),
}


def batch(
    images: list[tuple[Op, Image, int, int]], key: tuple[str, ...] = ("id",), ids: list[object] | None = None
) -> ChangeBatch:
    schema = TableSchema(
        table=TableName("shop", "main", "it's"),
        columns=(
            Column(name="id", type=pa.int64()),
            *(Column(name=name, type=kind) for name, (kind, _) in VALUES.items()),
        ),
        key=key,
    )
    count = len(images)
    system = [
        pa.array([int(op) for op, _, _, _ in images], pa.int8()),
        pa.array([int(image) for _, image, _, _ in images], pa.int8()),
        pa.array([commit for _, _, commit, _ in images], pa.int64()),
        pa.array([ordinal for _, _, _, ordinal in images], pa.int64()),
        pa.array([None if n % 3 == 0 else 1_700_000_000_123_456 + n for n in range(count)], pa.timestamp("us", "UTC")),
    ]
    # The two images of an update share their time as they share their commit.
    for place in range(1, count):
        if images[place][2:] == images[place - 1][2:]:
            times = system[4].to_pylist()
            times[place] = times[place - 1]
            system[4] = pa.array(times, pa.timestamp("us", "UTC"))
    data = [pa.array(ids if ids is not None else list(range(count)), pa.int64())]
    for kind, values in VALUES.values():
        cycle = [None, *values]
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        column = pa.array(
            [
                None if op is Op.TRUNCATE or image is Image.KEY else cycle[n % len(cycle)]
                for n, (op, image, _, _) in enumerate(images)
            ],
            plain,
        )
        data.append(column.dictionary_encode().cast(kind) if plain is not kind else column)
    return ChangeBatch(schema=schema, rows=pa.record_batch([*system, *data], schema=ChangeBatch.arrow_schema(schema)))


def encoded(given: ChangeBatch) -> Messages:
    with closing(DebeziumJson()) as codec:
        return codec.encode(given)


def there_and_back(given: ChangeBatch) -> ChangeBatch:
    with closing(DebeziumJson()) as codec:
        return codec.decode(schema_header(given.schema, given.rows.schema), codec.encode(given).values)


def test_every_type_and_every_kind_of_change_comes_back_as_it_was() -> None:
    images = [
        (Op.READ, Image.FULL, 0, 0),
        (Op.INSERT, Image.FULL, 1, 0),
        (Op.INSERT, Image.FULL, 1, 1),
        (Op.UPDATE_BEFORE, Image.FULL, 2, 0),
        (Op.UPDATE_AFTER, Image.FULL, 2, 0),
        (Op.UPDATE_BEFORE, Image.KEY, 2, 1),
        (Op.UPDATE_AFTER, Image.FULL, 2, 1),
        (Op.UPDATE_AFTER, Image.FULL, 2, 2),
        (Op.TRUNCATE, Image.FULL, 3, 0),
        (Op.DELETE, Image.FULL, 3, 1),
        (Op.DELETE, Image.KEY, 4, 0),
        (Op.UPDATE_BEFORE, Image.FULL, 4, 1),
        (Op.TRUNCATE, Image.FULL, 5, 0),
    ]
    given = batch(images, ids=[1, 2, 3, 4, 4, 5, 5, 6, None, 7, 8, 9, None])
    back = there_and_back(given)
    assert back.schema == given.schema
    assert back.rows.schema == given.rows.schema
    for name in given.rows.schema.names:
        assert back.rows.column(name).to_pylist() == given.rows.column(name).to_pylist(), name


def test_not_a_number_comes_back_too() -> None:
    given = batch([(Op.INSERT, Image.FULL, 0, 0)])
    place = given.rows.schema.get_field_index("odd")
    rows = given.rows.set_column(place, given.rows.schema.field(place), pa.array([math.nan]))
    assert math.isnan(there_and_back(ChangeBatch(given.schema, rows)).rows.column("odd")[0].as_py())


def test_an_envelope_is_what_debezium_writes() -> None:
    given = batch(
        [(Op.UPDATE_BEFORE, Image.FULL, 7, 3), (Op.UPDATE_AFTER, Image.FULL, 7, 3), (Op.DELETE, Image.FULL, 8, 0)],
        ids=[1, 1, 2],
    )
    messages = encoded(given)
    assert [json.loads(key) for key in messages.keys if key] == [{"id": 1}, {"id": 2}, {"id": 2}]
    update, delete = (json.loads(value) for value in messages.values[:2] if value)
    assert messages.values[2] is None
    assert set(update) == {"before", "after", "source", "op", "ts_ms"}
    assert (update["op"], delete["op"], delete["after"]) == ("u", "d", None)
    assert update["before"]["id"] == update["after"]["id"] == 1
    assert update["after"]["day"] == -719162
    assert update["source"]["table"] == "it's"
    assert update["source"]["snapshot"] == "false"
    assert {"connector", "name", "db", "schema", "table", "ts_ms", "snapshot"} <= set(update["source"])


def test_an_update_of_the_key_is_a_delete_and_a_create() -> None:
    given = batch([(Op.UPDATE_BEFORE, Image.FULL, 7, 3), (Op.UPDATE_AFTER, Image.FULL, 7, 3)], ids=[1, 2])
    messages = encoded(given)
    assert [json.loads(value)["op"] if value else None for value in messages.values] == ["d", None, "c"]
    assert there_and_back(given).rows.column(0).to_pylist() == [Op.DELETE, Op.INSERT]


def test_a_table_without_a_key_has_no_keys_and_no_tombstones() -> None:
    messages = encoded(batch([(Op.DELETE, Image.FULL, 0, 0)], key=()))
    assert messages.keys == [None]
    assert len(messages.values) == 1


def test_an_empty_batch_has_no_messages() -> None:
    assert encoded(batch([])).values == []


def test_a_type_that_json_cannot_carry_is_refused_by_name() -> None:
    schema = TableSchema(
        table=TableName("shop", "main", "t"), columns=(Column(name="tags", type=pa.list_(pa.int8())),), key=()
    )
    rows = batch([(Op.INSERT, Image.FULL, 0, 0)]).rows
    arrays = [*rows.columns[:5], pa.array([[1]], pa.list_(pa.int8()))]
    given = ChangeBatch(schema, pa.record_batch(arrays, schema=ChangeBatch.arrow_schema(schema)))
    with pytest.raises(SchemaMismatch, match="Column tags"):
        encoded(given)


def test_columns_that_differ_in_case_only_are_refused() -> None:
    columns = (Column(name="id", type=pa.int64()), Column(name="ID", type=pa.int64()))
    schema = TableSchema(table=TableName("shop", "main", "t"), columns=columns, key=("id",))
    rows = batch([(Op.INSERT, Image.FULL, 0, 0)]).rows
    arrays = [*rows.columns[:5], pa.array([1]), pa.array([2])]
    given = ChangeBatch(schema, pa.record_batch(arrays, schema=ChangeBatch.arrow_schema(schema)))
    with pytest.raises(SchemaMismatch, match="differ in case only"):
        encoded(given)


@pytest.mark.parametrize("value", [b"", b"hello", b"\xff", b'{"before": 1, "op": "c"}'])
def test_what_is_no_envelope_is_damage(value: bytes) -> None:
    given = batch([(Op.INSERT, Image.FULL, 0, 0)])
    with closing(DebeziumJson()) as codec, pytest.raises(Corrupt):
        codec.decode(schema_header(given.schema, given.rows.schema), [value])
