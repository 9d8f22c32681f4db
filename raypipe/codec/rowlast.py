"""Where the last row of each key is, found by the hashes of the keys."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec.rowequal import certainly_equal
from raypipe.codec.rowhash import Words
from raypipe.codec.wordorder import ascending

Places = npt.NDArray[np.int64]


def last_rows(keys: pa.RecordBatch, hashed: Words) -> Places | None:
    """Where the last row of each key is, in the order of the hashes.

    Args:
        keys: The key's columns of some rows.
        hashed: Their hash, of all 64 bits.

    Returns:
        None if it is not for the hashes to say: two keys share one, or Arrow cannot compare their values.
    """
    order = ascending(hashed)
    ordered = hashed[order]
    tied = np.zeros(len(order), np.bool_)
    np.equal(ordered[1:], ordered[:-1], out=tied[1:])
    again = np.flatnonzero(tied)
    if not again.size:
        return order
    one, other = (taken(keys, order[places]) for places in (again, again - 1))
    if not certainly_equal(one, other, keys.schema.names).all():
        return None
    lasts: Places = np.maximum.reduceat(order, np.flatnonzero(~tied))
    return lasts


def taken(rows: pa.RecordBatch, places: Places) -> pa.RecordBatch:
    """The rows at some places, which are all there: nothing is checked."""
    return pc.take(rows, pa.array(places), boundscheck=False)
