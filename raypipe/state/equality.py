"""Which rows are equal, by DuckDB's own grouping: where Arrow cannot tell (``codec.rowequal``)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.codec.rowequal import Flags
from raypipe.contracts import WEIGHT

Places = npt.NDArray[np.int64]

_ORDINAL = "_raypipe_ordinal"
_local = threading.local()


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


def last(rows: pa.RecordBatch, columns: Sequence[str]) -> Places:
    """Where the last row of each key is, ascending."""
    listed = ", ".join(_quoted(name) for name in columns)
    found = _run(
        f"SELECT max({_ORDINAL}) AS last FROM numbered GROUP BY {listed} ORDER BY last",
        numbered=_numbered(rows, columns),
    )
    places: Places = found.column("last").to_numpy()
    return places


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
