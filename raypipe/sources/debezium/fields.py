"""How a column's values look in JSON, and the Arrow type they get.

| in the envelope | Arrow |
|---|---|
| int8 … int64, float, double, boolean, string | the same |
| bytes | binary (from base64) |
| Decimal (bytes) with a precision up to 38 | decimal128; without one, precision 38 |
| VariableScaleDecimal | string, every digit kept |
| Date | date32 |
| Time, MicroTime; NanoTime | time64 in microseconds; int64 |
| Timestamp, MicroTimestamp; NanoTimestamp | timestamp in microseconds; in nanoseconds |
| ZonedTimestamp | timestamp in microseconds, UTC |
| Json, Uuid, Enum, Xml, Interval, ZonedTime … | string |
| array, map, struct | string, as JSON |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from raypipe.model import Column

DIGITS = 38  # of decimal128


class Form(StrEnum):
    """How values look in JSON."""

    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT = "float"
    DOUBLE = "double"
    BOOL = "bool"
    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"
    DECIMAL_TEXT = "decimal_text"
    DECIMAL_BYTES = "decimal_bytes"
    DECIMAL_ANY_SCALE = "decimal_any_scale"
    DAYS = "days"
    TIME_MS = "time_ms"
    TIME_US = "time_us"
    MOMENT_MS = "moment_ms"
    MOMENT_US = "moment_us"
    MOMENT_NS = "moment_ns"
    MOMENT_TEXT = "moment_text"


_ARROW: Mapping[Form, pa.DataType] = {
    Form.INT8: pa.int8(),
    Form.INT16: pa.int16(),
    Form.INT32: pa.int32(),
    Form.INT64: pa.int64(),
    Form.FLOAT: pa.float32(),
    Form.DOUBLE: pa.float64(),
    Form.BOOL: pa.bool_(),
    Form.TEXT: pa.string(),
    Form.JSON: pa.string(),
    Form.BYTES: pa.binary(),
    Form.DECIMAL_ANY_SCALE: pa.string(),
    Form.DAYS: pa.date32(),
    Form.TIME_MS: pa.time64("us"),
    Form.TIME_US: pa.time64("us"),
    Form.MOMENT_MS: pa.timestamp("us"),
    Form.MOMENT_US: pa.timestamp("us"),
    Form.MOMENT_NS: pa.timestamp("ns"),
    Form.MOMENT_TEXT: pa.timestamp("us", tz="UTC"),
}

_PLAIN = {
    "int8": Form.INT8,
    "int16": Form.INT16,
    "int32": Form.INT32,
    "int64": Form.INT64,
    "float": Form.FLOAT,
    "float32": Form.FLOAT,
    "double": Form.DOUBLE,
    "float64": Form.DOUBLE,
    "boolean": Form.BOOL,
    "string": Form.TEXT,
    "bytes": Form.BYTES,
}

# Semantic types of Kafka Connect and of Debezium; a name that is not here says nothing about how a value looks.
_SEMANTIC = {
    "org.apache.kafka.connect.data.Date": Form.DAYS,
    "org.apache.kafka.connect.data.Time": Form.TIME_MS,
    "org.apache.kafka.connect.data.Timestamp": Form.MOMENT_MS,
    "io.debezium.time.Date": Form.DAYS,
    "io.debezium.time.Time": Form.TIME_MS,
    "io.debezium.time.MicroTime": Form.TIME_US,
    "io.debezium.time.Timestamp": Form.MOMENT_MS,
    "io.debezium.time.MicroTimestamp": Form.MOMENT_US,
    "io.debezium.time.NanoTimestamp": Form.MOMENT_NS,
    "io.debezium.time.ZonedTimestamp": Form.MOMENT_TEXT,
    "io.debezium.data.VariableScaleDecimal": Form.DECIMAL_ANY_SCALE,
}
_DECIMAL = "org.apache.kafka.connect.data.Decimal"


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column.

    Attributes:
        name: Its name.
        form: How its values look in JSON.
        precision: Of a decimal.
        scale: Of a decimal.
        declared: What the schema calls it, for people.
    """

    name: str
    form: Form
    precision: int = 0
    scale: int = 0
    declared: str = ""

    @property
    def arrow(self) -> pa.DataType:
        """Of its values on the way."""
        if self.form in (Form.DECIMAL_TEXT, Form.DECIMAL_BYTES):
            return pa.decimal128(self.precision, self.scale)
        return _ARROW[self.form]

    @property
    def column(self) -> Column:
        """For a table's schema."""
        return Column(name=self.name, type=self.arrow, declared=self.declared)

    def parts(self) -> list[Any]:
        """For JSON; ``of_parts`` reads them back."""
        return [self.name, self.form.value, self.precision, self.scale, self.declared]

    @classmethod
    def of_parts(cls, parts: Sequence[Any]) -> Field:
        """Reads what ``parts`` gave."""
        name, form, precision, scale, declared = parts
        return cls(name=name, form=Form(form), precision=precision, scale=scale, declared=declared)

    @classmethod
    def of_connect(cls, field: Mapping[str, Any]) -> Field:
        """From a field of an embedded schema."""
        name, type_, semantic = str(field["field"]), str(field["type"]), str(field.get("name") or "")
        declared = semantic or type_
        if semantic == _DECIMAL:
            parameters = field.get("parameters") or {}
            scale = int(parameters.get("scale", 0))
            precision = int(parameters.get("connect.decimal.precision", DIGITS))
            if 0 <= scale <= precision <= DIGITS:
                return cls(name=name, form=Form.DECIMAL_BYTES, precision=precision, scale=scale, declared=declared)
            return cls(name=name, form=Form.BYTES, declared=declared)
        return cls(name=name, form=_SEMANTIC.get(semantic, _PLAIN.get(type_, Form.JSON)), declared=declared)

    @classmethod
    def of_arrow(cls, column: Column) -> Field:
        """From a column of a table that raypipe itself wrote as Debezium's JSON."""
        arrow, types = column.type, pa.types
        if types.is_dictionary(arrow):
            arrow = arrow.value_type
        if types.is_decimal(arrow) and arrow.precision <= DIGITS:
            return cls(
                name=column.name,
                form=Form.DECIMAL_TEXT,
                precision=arrow.precision,
                scale=arrow.scale,
                declared=column.declared,
            )
        if types.is_uint64(arrow):
            return cls(name=column.name, form=Form.DECIMAL_TEXT, precision=20, declared=column.declared)
        return cls(name=column.name, form=_form_of(arrow), declared=column.declared)


def _form_of(arrow: pa.DataType) -> Form:
    types = pa.types
    exact = {
        pa.int8(): Form.INT8,
        pa.int16(): Form.INT16,
        pa.int32(): Form.INT32,
        pa.uint8(): Form.INT16,
        pa.uint16(): Form.INT32,
        pa.bool_(): Form.BOOL,
        pa.float32(): Form.FLOAT,
        pa.float64(): Form.DOUBLE,
        pa.date32(): Form.DAYS,
        pa.time32("ms"): Form.TIME_MS,
        pa.time64("us"): Form.TIME_US,
        pa.timestamp("ms"): Form.MOMENT_MS,
        pa.timestamp("us"): Form.MOMENT_US,
        pa.timestamp("ns"): Form.MOMENT_NS,
        pa.timestamp("us", tz="UTC"): Form.MOMENT_TEXT,
    }
    if arrow in exact:
        return exact[arrow]
    if types.is_binary(arrow) or types.is_large_binary(arrow) or types.is_fixed_size_binary(arrow):
        return Form.BYTES
    if types.is_integer(arrow) or types.is_temporal(arrow):
        return Form.INT64
    if types.is_float16(arrow):
        return Form.FLOAT
    return Form.TEXT
