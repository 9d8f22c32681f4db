"""SQL that reads values out of JSON, exactly or not at all, and what turns its results into the columns' types."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.sources.debezium.fields import DIGITS, Field, Form

_WIDTHS = {Form.INT8: "TINYINT", Form.INT16: "SMALLINT", Form.INT32: "INTEGER", Form.DAYS: "INTEGER"}
_LONGS = (Form.INT64, Form.TIME_US, Form.MOMENT_US, Form.MOMENT_NS)
_MILLIS = (Form.TIME_MS, Form.MOMENT_MS)
_DECIMAL_BYTES = 16
# What Debezium writes for a large value (TOAST) of PostgreSQL that an update left alone and the server did not send, by
# the type of its column. For numeric, and for arrays of numeric and of boolean, it writes null, which nothing tells
# from a real one.
_UNSENT = "__debezium_unavailable_value"
_UNSENT_TEXTS = pa.array(
    [
        _UNSENT,
        f'["{_UNSENT}"]',
        f'{{"{_UNSENT}":"{_UNSENT}"}}',
        f"[{','.join(str(byte) for byte in _UNSENT.encode())}]",
        '["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]',  # Java's name-based UUID of the same
    ]
)
_DAY_US = 86_400_000_000


def unsent(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Which values stand for one that the database did not send; None if none does."""
    if pa.types.is_string(column.type):
        found = pc.is_in(column, value_set=_UNSENT_TEXTS)
    elif pa.types.is_binary(column.type):
        found = pc.fill_null(pc.equal(column, _UNSENT.encode()), False)
    else:
        return None
    return found.to_numpy(zero_copy_only=False) if pc.any(found).as_py() else None


def json_type(form: Form) -> str:
    """What DuckDB takes a value out of its row as: text, or JSON where text would lose what it was."""
    return "JSON" if form in (Form.JSON, Form.DECIMAL_BYTES, Form.DECIMAL_ANY_SCALE) else "VARCHAR"


def reading(field: Field, value: str) -> str:
    """SQL for the value of a column, NULL where it does not fit.

    Args:
        field: The column.
        value: SQL for what ``json_type`` took out.
    """
    form = field.form
    if form in _WIDTHS or form in _LONGS:
        return _whole(value, _WIDTHS.get(form, "BIGINT"))
    if form in _MILLIS:
        return f"TRY(1000 * {_whole(value, 'BIGINT')})"
    if form is Form.DOUBLE:
        return f"TRY_CAST({value} AS DOUBLE)"
    if form is Form.FLOAT:
        return f"TRY_CAST({value} AS FLOAT)"
    if form is Form.BOOL:
        return f"CASE {value} WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END"
    if form is Form.BYTES:
        return f"TRY(from_base64({value}))"
    if form is Form.DECIMAL_TEXT:
        # A cast alone would round.
        exact = f"regexp_full_match({value}, '-?[0-9]+([.][0-9]{{0,{field.scale}}}0*)?')"
        return f"CASE WHEN {exact} THEN TRY_CAST({value} AS DECIMAL({field.precision},{field.scale})) END"
    if form is Form.DECIMAL_BYTES:
        text = f"CAST({value} AS VARCHAR)"
        # A number that is not in quotes comes from decimal.format=numeric and was a double on its way here.
        return f"CASE WHEN {text} LIKE '\"%' THEN TRY(from_base64(substr({text}, 2, length({text}) - 2))) END"
    if form is Form.DECIMAL_ANY_SCALE:
        scale, digits = (f"json_extract_string({value}, '$.{part}')" for part in ("scale", "value"))
        return f"{{'scale': TRY_CAST({scale} AS INTEGER), 'digits': TRY(from_base64({digits}))}}"
    if form is Form.MOMENT_TEXT:
        whole = _whole(value, "BIGINT")
        usual = f"regexp_full_match({value}, '[0-9]{{4}}-[^.]*([.][0-9]{{1,6}})?(Z|[-+][0-9:]+)?')"
        return f"coalesce({whole}, CASE WHEN {usual} THEN TRY(epoch_us(TRY_CAST({value} AS TIMESTAMPTZ))) END)"
    return f"CAST({value} AS VARCHAR)"


def _whole(value: str, type_: str) -> str:
    """Only what is written as that very number: a cast alone would round 1.5 and take 007."""
    cast = f"TRY_CAST({value} AS {type_})"
    return f"CASE WHEN CAST({cast} AS VARCHAR) = {value} THEN {cast} END"


def finished(field: Field, column: pa.Array) -> pa.Array:
    """The column's own type; NULL where a value does not fit."""
    form = field.form
    if form is Form.DECIMAL_BYTES:
        whole = _unscaled(column)
        return _fitting(_rescaled(whole, field), field)
    if form is Form.DECIMAL_ANY_SCALE:
        return _with_point(_unscaled(column.field("digits")), column.field("scale"))
    if form in (Form.TIME_MS, Form.TIME_US):
        inside = pc.and_(pc.greater_equal(column, 0), pc.less_equal(column, _DAY_US))
        return pc.if_else(inside, column, None).cast(pa.int64()).view(field.arrow)
    if form in (Form.MOMENT_MS, Form.MOMENT_US, Form.MOMENT_NS, Form.MOMENT_TEXT):
        return column.cast(pa.int64()).view(field.arrow)
    if form is Form.DAYS:
        return column.cast(pa.int32()).view(field.arrow)
    return column.cast(field.arrow)


def _unscaled(column: pa.Array) -> pa.Array:
    """Big-endian two's complement of any length up to 16 bytes as decimal128(38, 0); NULL beyond 38 digits.

    The bytes are gathered by place from the end: the last byte of every value, the one before, and so on.
    """
    column = column.cast(pa.binary())
    count = len(column)
    ends = np.frombuffer(column.buffers()[1], np.int32, count + 1, 4 * column.offset).astype(np.int64)
    data = np.frombuffer(column.buffers()[2] or b"\0", np.uint8)
    lengths = ends[1:] - ends[:-1]
    valid = column.is_valid().to_numpy(zero_copy_only=False) & (lengths > 0) & (lengths <= _DECIMAL_BYTES)
    starts = np.where(valid, ends[:-1], 0)
    negative = valid & (data[np.minimum(starts, len(data) - 1)] >= 0x80)
    wide = np.repeat(np.where(negative, 0xFF, 0).astype(np.uint8)[:, None], _DECIMAL_BYTES, axis=1)
    for place in range(_DECIMAL_BYTES):
        here = valid & (lengths > place)
        wide[here, place] = data[ends[1:][here] - 1 - place]
    values = pa.Array.from_buffers(pa.decimal128(DIGITS, 0), count, [_bitmap(valid), pa.py_buffer(wide.tobytes())])
    limit = pa.scalar(10**DIGITS - 1, pa.decimal128(DIGITS, 0))
    inside = pc.and_(pc.less_equal(values, limit), pc.greater_equal(values, pc.negate(limit)))
    return pc.if_else(inside, values, None)


def _bitmap(valid: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())


def _rescaled(whole: pa.Array, field: Field) -> pa.Array:
    """The same digits with a decimal point among them."""
    return pa.Array.from_buffers(
        pa.decimal128(DIGITS, field.scale), len(whole), whole.buffers(), whole.null_count, whole.offset
    )


def _fitting(values: pa.Array, field: Field) -> pa.Array:
    limit = pa.scalar(10**field.precision - 1, pa.decimal128(DIGITS, 0))
    whole = pa.Array.from_buffers(pa.decimal128(DIGITS, 0), len(values), values.buffers())
    inside = pc.and_(pc.less_equal(whole, limit), pc.greater_equal(whole, pc.negate(limit)))
    return pc.if_else(inside, values, None).cast(field.arrow)


def _with_point(whole: pa.Array, scales: pa.Array) -> pa.Array:
    """Digits as text with as many decimal places as each value says; a scale below zero does not fit."""
    text = whole.cast(pa.string())
    negative = pc.starts_with(text, "-")
    digits = pc.utf8_ltrim(text, "-")
    shown = pa.nulls(len(text), pa.string())
    for scale in pc.unique(scales.drop_null()).to_pylist():
        if not 0 <= scale <= DIGITS:
            continue
        padded = pc.utf8_lpad(digits, scale + 1, "0")
        if scale:
            before, after = pc.utf8_slice_codeunits(padded, 0, -scale), pc.utf8_slice_codeunits(padded, -scale)
            padded = pc.binary_join_element_wise(before, after, ".")
        shown = pc.if_else(pc.fill_null(pc.equal(scales, scale), False), padded, shown)
    return pc.binary_join_element_wise(pc.if_else(negative, "-", ""), shown, "")
