"""Lists and structs by column: what they hold is converted or compared without looking at any of them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import relisted

Convert = Callable[[pa.Array, pa.DataType], pa.Array]
"""From a column of innermost values to one of the type given, of the same length."""

_CODE_BYTES = 8


def is_list_like(arrow: pa.DataType) -> bool:
    """Whether it is a list, in whatever layout."""
    types = pa.types
    return bool(
        types.is_list(arrow)
        or types.is_large_list(arrow)
        or types.is_fixed_size_list(arrow)
        or types.is_list_view(arrow)
        or types.is_large_list_view(arrow)
    )


def is_nested(arrow: pa.DataType) -> bool:
    """Whether it is a list or a struct."""
    return is_list_like(arrow) or bool(pa.types.is_struct(arrow))


def converted(column: pa.Array, wanted: pa.DataType, convert: Convert) -> pa.Array:
    """The column with its innermost values converted; which lists and structs there are, and how long, stays.

    Args:
        column: A list in any layout, a struct, or itself a column of innermost values.
        wanted: The type to come out, with ``pa.list_`` and structs where the column has them.
        convert: What to do with innermost values.
    """
    if pa.types.is_list(wanted):
        column = column.cast(pa.list_(column.type.value_type))
        return relisted(column, converted(column.flatten(), wanted.value_type, convert))
    if pa.types.is_struct(wanted):
        members = [
            converted(member, field.type, convert) for member, field in zip(column.flatten(), wanted, strict=True)
        ]
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=column.is_null())
    return convert(column, wanted)


def retyped(arrow: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with its innermost types replaced, and ``pa.list_`` in place of every list."""
    if is_list_like(arrow):
        return pa.list_(retyped(arrow.value_type, leaf))
    if pa.types.is_struct(arrow):
        return pa.struct([pa.field(field.name, retyped(field.type, leaf)) for field in arrow])
    return leaf(arrow)


def outline(arrow: pa.DataType, leaf: Callable[[pa.DataType], str]) -> Any:
    """The type as JSON has it: ``[element]`` for a list, ``{name: field, …}`` for a struct, a name within."""
    if pa.types.is_list(arrow):
        return [outline(arrow.value_type, leaf)]
    if pa.types.is_struct(arrow):
        return {field.name: outline(field.type, leaf) for field in arrow}
    return leaf(arrow)


def codes(column: pa.Array) -> pa.Array:
    """A whole number for each value, equal for two values of this column whose bytes are equal; NULL is one of them.

    Arrow groups by no list and no struct, so rows with such columns are grouped by these. Floats must have been made
    comparable before.
    """
    if pa.types.is_list(column.type):
        ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0)).to_numpy()
        offsets = np.concatenate([[0], ends]).astype(np.int64) * _CODE_BYTES
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(codes(column.flatten()).to_numpy())]
        return _places(pa.Array.from_buffers(pa.large_binary(), len(column), buffers), column)
    if pa.types.is_struct(column.type):
        members = np.stack([codes(member).to_numpy() for member in column.flatten()], axis=1)
        kind = pa.binary(members.shape[1] * _CODE_BYTES)
        return _places(pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(members.copy())]), column)
    return _places(column, column)


def _places(values: pa.Array, column: pa.Array) -> pa.Array:
    """The place of each value among the distinct ones, -1 where the column is NULL."""
    places = pc.dictionary_encode(values).indices.cast(pa.int64())
    return pc.if_else(column.is_valid(), pc.fill_null(places, -1), -1)
