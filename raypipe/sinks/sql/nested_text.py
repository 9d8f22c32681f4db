"""Lists and structs as JSON text, for databases that have no such types; and back, exactly.

==============================================  =============================================================
list                                            array; empty stays empty, NULL stays NULL (no text at all)
struct                                          object with all its fields, in their order
NULL within                                     null
bool, integers (uint64 excepted)                as they are
uint64, decimals                                string of digits, a decimal's with all its decimal places
floats                                          shortest digits that are read back alike, with a point or an
                                                exponent; NaN and the infinities as the strings ``NaN``, ``Infinity``
                                                and ``-Infinity``
text                                            string
binary                                          string of hexadecimal digits, in small letters
dates, times of day, timestamps                 string as in a column of their own (``raypipe.sinks.text``)
==============================================  =============================================================

So two values have the same text if and only if they are the same value, zeros of both signs excepted, and the text can
be compared in place of the value.
"""

from __future__ import annotations

import json

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import decimal_text, hex_text, hex_values, json_arrays, json_objects, json_strings
from raypipe.errors import Corrupt
from raypipe.sinks.nested import converted, is_nested, outline, retyped
from raypipe.sinks.text import moment_text, moments

_WHOLE = r"^(-?\d+)$"
# As Arrow writes them, and how they are written here.
_NO_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def nested_text(column: pa.Array) -> pa.Array:
    """Lists or structs of a stored type as JSON text.

    Raises:
        LimitExceeded: a moment that has no text.
    """
    if pa.types.is_list(column.type):
        return json_arrays(column, nested_text(column.flatten()))
    if pa.types.is_struct(column.type):
        names = [field.name for field in column.type]
        objects = json_objects(names, [nested_text(member) for member in column.flatten()])
        return pc.if_else(column.is_valid(), objects, pa.scalar(None, pa.string()))
    return _leaf_text(column)


def nested_values(text: pa.Array, stored: pa.DataType) -> pa.Array:
    """Reads what ``nested_text`` wrote.

    Raises:
        Corrupt: some text is no such value; somebody else wrote it.
    """
    structure = json.dumps(outline(stored, lambda _: "VARCHAR"), ensure_ascii=False)
    try:
        with duckdb.connect() as database:
            database.register("given", pa.table({"text": text.cast(pa.string())}))
            read = database.sql("SELECT json_transform_strict(text, ?) AS value FROM given", params=[structure])
            texts = read.to_arrow_table()["value"].combine_chunks()
        return converted(texts.cast(retyped(stored, lambda _: pa.string())), stored, _leaf_values)
    except (duckdb.Error, pa.ArrowInvalid, ValueError):
        raise Corrupt(f"A stored text is no {stored}.") from None


def same_text(narrow: pa.DataType, wide: pa.DataType) -> bool:
    """Whether values of a nested type have the same text when they are of the wider one (see ``common_type``)."""
    if is_nested(narrow):
        places = range(narrow.num_fields)
        return all(same_text(narrow.field(place).type, wide.field(place).type) for place in places)
    if pa.types.is_decimal(narrow) and pa.types.is_decimal(wide):
        return bool(narrow.scale == wide.scale)
    numbers = pa.types.is_integer(narrow) and pa.types.is_integer(wide) and not pa.types.is_uint64(wide)
    return narrow == wide or bool(numbers)


def _leaf_text(column: pa.Array) -> pa.Array:
    types, stored = pa.types, column.type
    if types.is_decimal(stored):
        return json_strings(decimal_text(column))
    if types.is_temporal(stored):
        return json_strings(moment_text(column))
    if types.is_binary(stored):
        return json_strings(hex_text(column))
    if types.is_floating(stored):
        return _number_text(column)
    text = column.cast(pa.string())
    return json_strings(text) if types.is_string(stored) or types.is_uint64(stored) else text


def _leaf_values(text: pa.Array, stored: pa.DataType) -> pa.Array:
    if pa.types.is_temporal(stored):
        return moments(text, stored)
    return hex_values(text) if pa.types.is_binary(stored) else text.cast(stored)


def _number_text(column: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(column.cast(pa.string()), _WHOLE, r"\1.0")
    for plain, quoted in _NO_NUMBERS.items():
        text = pc.if_else(pc.equal(text, plain), quoted, text)
    return text
