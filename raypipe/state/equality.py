"""Which rows are equal: value by value where Arrow can tell, by DuckDB's own grouping where it cannot."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.contracts import WEIGHT

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

_ORDINAL = "_raypipe_ordinal"
_local = threading.local()


def certainly_equal(left: pa.RecordBatch, right: pa.RecordBatch, columns: Sequence[str]) -> Flags:
    """Whether row i of one is row i of the other in these columns.

    False also where Arrow cannot compare: lists, structs, intervals. ``total`` and ``among`` then find out.
    """
    flags = np.ones(left.num_rows, dtype=np.bool_)
    for name in columns:
        flags &= _equal(left.column(name), right.column(name))
    return flags


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


def total(rows: pa.RecordBatch, columns: Sequence[str]) -> tuple[Places, npt.NDArray[np.int64]]:
    """Groups rows whose places do not tell them apart: where the first of each group is, and the sum of its weights.

    Groups come in an order that depends on their values alone.
    """
    listed = ", ".join(_quoted(name) for name in columns)
    numbered = _numbered(rows, [*columns, WEIGHT])
    found = _run(
        f"SELECT min({_ORDINAL}) AS first, sum({WEIGHT})::BIGINT AS weight FROM numbered GROUP BY {listed}"
        f" ORDER BY {listed}",
        numbered=numbered,
    )
    return found.column("first").to_numpy(), found.column("weight").to_numpy()


def among(rows: pa.RecordBatch, keys: pa.RecordBatch, columns: Sequence[str]) -> Flags:
    """Whether each row's values in these columns are those of some key."""
    joined = " AND ".join(f"r.{_quoted(name)} IS NOT DISTINCT FROM k.{_quoted(name)}" for name in columns)
    found = _run(
        f"SELECT {_ORDINAL} AS there FROM numbered r WHERE EXISTS (FROM keys k WHERE {joined})",
        numbered=_numbered(rows, columns),
        keys=pa.Table.from_batches([keys.select(list(columns))]),
    )
    flags = np.zeros(rows.num_rows, dtype=np.bool_)
    flags[found.column("there").to_numpy()] = True
    return flags


def _numbered(rows: pa.RecordBatch, columns: Sequence[str]) -> pa.Table:
    return pa.Table.from_batches([rows.select(list(columns))]).append_column(
        _ORDINAL, pa.array(np.arange(rows.num_rows, dtype=np.int64))
    )


def _run(sql: str, **tables: pa.Table) -> pa.Table:
    """One connection for each thread: opening one takes longer than the statement."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = duckdb.connect(config={"threads": 1, "python_enable_replacements": False})
    for name, table in tables.items():
        connection.register(name, table)
    try:
        return connection.sql(sql).to_arrow_table()
    finally:
        for name in tables:
            connection.unregister(name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
