"""Every form of a value is read exactly, or found not to fit."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from raypipe.sources.debezium.fields import Field, Form
from raypipe.sources.debezium.parse import Format, Parser, Phase
from raypipe.sources.debezium.shape import Shape, Style

DECIMAL = "org.apache.kafka.connect.data.Decimal"
CONNECT = "org.apache.kafka.connect.data"
TIME = "io.debezium.time"


def unscaled(number: int) -> str:
    size = number.bit_length() // 8 + 1
    return base64.b64encode(number.to_bytes(size, "big", signed=True)).decode()


def parsed(field: Field, *values: object) -> pa.Table:
    """A chunk of a column of these values, one message each."""
    return parsed_envelopes(*({"after": {field.name: value}, "op": "c", "ts_ms": 1} for value in values), field=field)


def parsed_envelopes(*envelopes: dict[str, object], field: Field | None = None) -> pa.Table:
    """A chunk of these envelopes, by default of a column `a`."""
    field = field or Field(name="a", form=Form.INT64)
    shape = Shape(style=Style.EMBEDDED, fields=(field,), key=())
    texts = [json.dumps(envelope).encode() for envelope in envelopes]
    numbers = np.arange(len(texts))
    parser = Parser()
    try:
        return parser.parse(
            Format(topic="p.t", shape=shape, whole_before=False),
            pa.nulls(len(texts), pa.binary()),
            pa.array(texts, pa.binary()),
            numbers,
            numbers,
        )
    finally:
        parser.close()


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
    chunk = parsed(field, written, None, written)
    assert chunk.column("a0").to_pylist() == [meant, None, meant]
    assert chunk.column("misfit_a").to_pylist() == [-1, -1, -1]


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
def test_a_value_that_does_not_fit_is_known_by_its_column(field: Field, written: object) -> None:
    chunk = parsed(field, None, written)
    assert chunk.column("a0").to_pylist() == [None, None]
    assert chunk.column("misfit_a").to_pylist() == [-1, 0]


@pytest.mark.parametrize(
    ("source", "phase", "behind"),
    [
        ({"connector": "postgresql", "snapshot": "false", "lsn": 7, "sequence": '["5","7"]'}, Phase.STREAM, 5),
        ({"connector": "postgresql", "snapshot": "false", "lsn": 7, "sequence": '[null,"7"]'}, Phase.STREAM, -1),
        ({"connector": "postgresql", "snapshot": "first", "lsn": 7, "sequence": '[null,"7"]'}, Phase.SNAPSHOT, -1),
        ({"connector": "postgresql", "snapshot": "last", "lsn": 7, "sequence": '[null,"7"]'}, Phase.LAST, -1),
        ({"connector": "postgresql", "snapshot": "incremental", "lsn": 7}, Phase.OTHER, -1),
        ({"connector": "mysql", "snapshot": "false", "file": "binlog.1", "pos": 9}, Phase.OTHER, -1),
        ({"connector": "sqlserver", "snapshot": False, "commit_lsn": "0:1:2"}, Phase.OTHER, -1),
    ],
)
def test_a_message_tells_where_it_stands_in_the_stream_of_postgresql(
    source: dict[str, object], phase: Phase, behind: int
) -> None:
    chunk = parsed_envelopes({"after": {"a": 1}, "op": "c", "source": source, "transaction": {"id": "4:7"}})
    assert [chunk.column(name)[0].as_py() for name in ("phase", "behind", "tx")] == [phase, behind, 4]
