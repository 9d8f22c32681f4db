"""Which rows are equal, value by value, as DuckDB groups them: NULL is NULL, NaN is NaN, -0.0 is 0.0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Flags = npt.NDArray[np.bool_]


def certainly_equal(left: pa.RecordBatch, right: pa.RecordBatch, columns: Sequence[str]) -> Flags:
    """Whether row i of one is row i of the other in these columns.

    False also where Arrow cannot compare: lists, structs, intervals. ``total`` and ``among`` then find out.
    """
    flags = np.ones(left.num_rows, dtype=np.bool_)
    for name in columns:
        flags &= _equal(left.column(name), right.column(name))
    return flags


def comparable(columns: pa.Schema) -> bool:
    """Whether ``certainly_equal`` finds out all there is to know of these columns."""
    return all(map(_decides, columns.types))


def _decides(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_string(kind)
        or types.is_binary(kind)
        or types.is_boolean(kind)
        or types.is_date(kind)
        or types.is_time(kind)
        or types.is_timestamp(kind)
    )


def _equal(left: pa.Array, right: pa.Array) -> Flags:
    if isinstance(left, pa.ExtensionArray):
        left, right = left.storage, right.storage
    kind = left.type
    if pa.types.is_nested(kind) or pa.types.is_interval(kind):
        return np.zeros(len(left), dtype=np.bool_)
    if pa.types.is_null(kind):
        return np.ones(len(left), dtype=np.bool_)
    if pa.types.is_float16(kind):
        left, right = left.cast(pa.float32()), right.cast(pa.float32())
    try:
        equal = pc.equal(left, right)
    except pa.ArrowNotImplementedError:
        return np.zeros(len(left), dtype=np.bool_)
    if pa.types.is_floating(kind):
        equal = pc.or_(equal, pc.and_(pc.is_nan(left), pc.is_nan(right)))
    if left.null_count or right.null_count:
        equal = pc.or_(pc.fill_null(equal, False), pc.and_(left.is_null(), right.is_null()))
    return np.asarray(equal.to_numpy(zero_copy_only=False), dtype=np.bool_)
