"""How often rows are there: the last column of stored rows, which is not stored where every row is there once."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.contracts import WEIGHT_FIELD

_lock = threading.Lock()
_ones = pa.array(np.ones(1 << 10, np.int64))


def weights_of(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """The weights as an array, without a copy."""
    weights: npt.NDArray[np.int64] = rows.column(rows.num_columns - 1).to_numpy()
    return weights


def count_once(rows: pa.RecordBatch) -> bool:
    """Whether every row is there once."""
    return bool((weights_of(rows) == 1).all())


def without_weight(schema: pa.Schema) -> pa.Schema:
    """All columns but the last."""
    return pa.schema(list(schema)[:-1])


def with_ones(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows without their weights, each there once; all such rows have one array of weights, as long as the longest."""
    global _ones
    with _lock:
        if len(_ones) < rows.num_rows:
            _ones = pa.array(np.ones(rows.num_rows, np.int64))
        ones = _ones
    return rows.append_column(WEIGHT_FIELD, ones.slice(0, rows.num_rows))
