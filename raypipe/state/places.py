"""Where a row lies in its trace: one 64-bit number, the upper half a hash of its key, the lower one of all its columns.

So rows in the order of their places lie together by key, and equal rows side by side. Places are stored and must not
change while ``FORMAT`` of the commit files stays. With the hash of ``codec.rowhash``::

    place:    hash(key columns) >> 32 << 32 | min(hash(all columns) >> 32, 2^32 - 2)

Equal values have equal hashes; the converse is checked by whoever relies on it, since 32 bits of key are few. Columns
that count as 0 are correct all the same, and slower.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raypipe.codec import hashes
from raypipe.codec.rowhash import Words

KEY_BITS = np.uint64(32)
LOWER_HALF = np.uint64(0xFFFFFFFF)
HIGHEST_ROW = LOWER_HALF - np.uint64(1)  # so that no row lies where its key's rows end


def places(rows: pa.RecordBatch, key: Sequence[str], columns: Sequence[str]) -> Words:
    """The place of each row."""
    return place_of(*hashes(rows, key, columns))


def place_of(by_key: Words, by_row: Words) -> Words:
    """The place of each row, by the hashes of its key and of all its columns, whose array is used for it."""
    by_row >>= KEY_BITS
    np.minimum(by_row, HIGHEST_ROW, out=by_row)
    by_row |= by_key & ~LOWER_HALF
    return by_row


def first_places(keys: pa.RecordBatch, key: Sequence[str]) -> Words:
    """The lowest place that a row of each key can have; ``| LOWER_HALF`` it is where they end."""
    (by_key,) = hashes(keys, key)
    by_key &= ~LOWER_HALF
    return by_key
