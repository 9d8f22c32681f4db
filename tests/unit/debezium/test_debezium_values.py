"""Every form of a value is read exactly, or found not to fit."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pytest

from raypipe.errors import SchemaMismatch
from raypipe.model import OP, TableName
from raypipe.sources.debezium.decode import Decoder, Messages, Table
from raypipe.sources.debezium.fields import Field
from raypipe.sources.debezium.shape import Shape, Style

DECIMAL = "org.apache.kafka.connect.data.Decimal"
CONNECT = "org.apache.kafka.connect.data"
TIME = "io.debezium.time"


def unscaled(number: int) -> str:
    size = number.bit_length() // 8 + 1
    return base64.b64encode(number.to_bytes(size, "big", signed=True)).decode()


def decoded(field: Field, *values: object) -> pa.Array:
    """What a column of these values becomes, one message each."""
    shape = Shape(style=Style.EMBEDDED, fields=(field,), key=())
    texts = [json.dumps({"after": {field.name: value}, "op": "c", "ts_ms": 1}).encode() for value in values]
    count = len(texts)
    messages = Messages(
        keys=[None] * count,
        values=list(texts),
        stamps=[0] * count,
        partitions=[0] * count,
        offsets=list(range(count)),
        places=list(range(1, count + 1)),
        payloads=pa.array(texts, pa.binary()),
    )
    table = Table(
        topic="p.t",
        shape=shape,
        schema=shape.schema(TableName("shop", "p", "t"), 1, key_only=True),
        until=None,
        emptied=False,
        partitions=1,
        deleted={},
        whole_before=False,
    )
    decoder = Decoder()
    try:
        batch, _ = decoder.decode(table, messages, pa.nulls(count, pa.binary()), 1)
    finally:
        decoder.close()
    assert batch is not None
    assert batch.rows.column(OP).to_pylist() == [1] * count
    return batch.rows.column(field.name)


def of(type_: str, semantic: str = "", **parameters: str) -> Field:
    return Field.of_connect({"field": 'a "quoted" name', "type": type_, "name": semantic, "parameters": parameters})


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        (of("int8"), -128, -128),
        (of("int64"), 2**63 - 1, 2**63 - 1),
        (of("double"), 0.1, 0.1),
        (of("float"), 0.5, 0.5),
        (of("boolean"), True, True),
        (of("string"), "ä\n'\"", "ä\n'\""),
        (of("string"), "null", "null"),
        (of("bytes"), "AP8=", b"\x00\xff"),
        (of("array"), [1, "x"], '[1,"x"]'),
        (of("string", "io.debezium.data.Json"), '{"a": 1.0}', '{"a": 1.0}'),
        (of("bytes", DECIMAL, scale="2", **{"connect.decimal.precision": "5"}), unscaled(-12345), Decimal("-123.45")),
        (of("bytes", DECIMAL, scale="0"), unscaled(10**38 - 1), Decimal(10**38 - 1)),
        (of("bytes", DECIMAL, scale="3"), unscaled(0), Decimal("0.000")),
        (of("struct", "io.debezium.data.VariableScaleDecimal"), {"scale": 3, "value": unscaled(-7)}, "-0.007"),
        (of("struct", "io.debezium.data.VariableScaleDecimal"), {"scale": 0, "value": unscaled(70)}, "70"),
        (of("int32", f"{CONNECT}.Date"), -1, date(1969, 12, 31)),
        (of("int32", f"{TIME}.Date"), 20_000, date(2024, 10, 4)),
        (of("int32", f"{CONNECT}.Time"), 3_600_001, time(1, 0, 0, 1000)),
        (of("int64", f"{TIME}.MicroTime"), 1, time(0, 0, 0, 1)),
        (of("int64", f"{CONNECT}.Timestamp"), -1, datetime(1969, 12, 31, 23, 59, 59, 999000)),
        (of("int64", f"{TIME}.MicroTimestamp"), 1, datetime(1970, 1, 1, 0, 0, 0, 1)),
        (
            of("string", f"{TIME}.ZonedTimestamp"),
            "2026-11-27T01:00:00.123456+01:00",
            datetime(2026, 11, 27, 0, 0, 0, 123456, UTC),
        ),
        (of("int64", f"{TIME}.MicroDuration"), 5, 5),
    ],
)
def test_a_value_is_read_exactly_and_null_stays_null(field: Field, written: object, meant: object) -> None:
    assert decoded(field, written, None, written).to_pylist() == [meant, None, meant]


@pytest.mark.parametrize(
    ("field", "written"),
    [
        (of("int8"), 128),
        (of("int64"), 1.5),
        (of("int64"), "007"),
        (of("int64"), 2**63),
        (of("double"), "much"),
        (of("boolean"), 1),
        (of("bytes"), "no base64!"),
        (of("bytes", DECIMAL, scale="2", **{"connect.decimal.precision": "5"}), unscaled(100000)),
        (of("bytes", DECIMAL, scale="2"), 1234),
        (of("bytes", DECIMAL, scale="0"), unscaled(10**38)),
        (of("struct", "io.debezium.data.VariableScaleDecimal"), {"scale": -1, "value": unscaled(1)}),
        (of("int64", f"{TIME}.MicroTime"), -1),
        (of("string", f"{TIME}.ZonedTimestamp"), "2026-11-27T01:00:00.1234567Z"),
        (of("string", f"{TIME}.ZonedTimestamp"), "soon"),
    ],
)
def test_a_value_that_does_not_fit_stops_and_is_not_shown(field: Field, written: object) -> None:
    with pytest.raises(SchemaMismatch, match="text_columns") as caught:
        decoded(field, written)
    if isinstance(written, str):
        assert written not in str(caught.value)
