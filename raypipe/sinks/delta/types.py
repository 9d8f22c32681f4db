"""Which form a value takes in Delta Lake, and back: what Delta lacks is carried by a wider integer or as text."""

from __future__ import annotations

import pyarrow as pa

from raypipe.sinks.nested import converted, is_nested, retyped
from raypipe.sinks.text import moment_text, moments
from raypipe.sinks.types import UTC, stored_type

# Delta has no unsigned integers, no time of day and no nanoseconds. Text in ISO order sorts as the values do.
_FORMS = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.time64("us"): pa.string(),
    pa.timestamp("ns"): pa.string(),
}
_NAMES = {
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "binary",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp_ntz",
    pa.timestamp("us", tz=UTC): "timestamp",
}

# A partition's value is text in the table's log. Floats and bytes have no text that every reader takes back alike.
PARTITION_TYPES = "integers, decimals, text, booleans, dates and timestamps"


def delta_form(stored: pa.DataType) -> pa.DataType:
    """The Arrow type under which Delta keeps a stored type (see ``raypipe.sinks.types.stored_type``)."""
    return retyped(stored, lambda leaf: _FORMS.get(leaf, leaf))


def delta_name(stored: pa.DataType) -> str:
    """Delta's own name of that type, as its specification and Spark have it."""
    form = delta_form(stored)
    if pa.types.is_list(form):
        return f"array<{delta_name(form.value_type)}>"
    if pa.types.is_struct(form):
        return f"struct<{', '.join(f'{field.name}: {delta_name(field.type)}' for field in form)}>"
    if pa.types.is_decimal(form):
        return f"decimal({form.precision},{form.scale})"
    return _NAMES[form]


def partitions(form: pa.DataType) -> bool:
    """Whether a column of this form may partition a table."""
    return not (pa.types.is_floating(form) or pa.types.is_binary(form) or is_nested(form))


def encode(column: pa.Array) -> pa.Array:
    """A column in its Delta form.

    Raises:
        LimitExceeded: a moment that has no text.
    """
    stored = stored_type(column.type)
    return converted(column.cast(stored), delta_form(stored), _encoded)


def decode(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Takes ``encode`` back; a column that was widened since is narrowed if all its values allow.

    Raises:
        Corrupt: a text that ``encode`` did not write.
        pa.ArrowInvalid: a value that is no longer of the wanted type.
    """
    decoded = converted(column, stored_type(wanted), _decoded)
    return (decoded.dictionary_encode() if pa.types.is_dictionary(wanted) else decoded).cast(wanted)


def _encoded(column: pa.Array, form: pa.DataType) -> pa.Array:
    as_text = form == pa.string() and column.type != form
    return moment_text(column) if as_text else column.cast(form)


def _decoded(column: pa.Array, stored: pa.DataType) -> pa.Array:
    if delta_form(stored) == pa.string() and stored != pa.string():
        return moments(column.cast(pa.string()), stored)
    return column.cast(stored)
