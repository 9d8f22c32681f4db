"""Splits a batch that is too large for one message, never between the two images of an update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from raypipe.model import COMMIT, OP, ORDINAL, ChangeBatch, Op

# Large enough that the cost of a batch (0.1 ms) vanishes, small enough that a reader holds several in memory.
BATCH_BYTES = 8 << 20


def split(batch: ChangeBatch, max_bytes: int = BATCH_BYTES) -> Iterator[ChangeBatch]:
    """The batch in parts of about ``max_bytes`` of Arrow memory, in order; itself if it is small enough.

    A part is larger only if it is a single change. Rows are halved, not counted out by their average size: a table
    with a few large values splits where those are.
    """
    for rows in _parts(batch.rows, max_bytes):
        yield batch if rows is batch.rows else replace(batch, rows=rows)


def _parts(rows: pa.RecordBatch, max_bytes: int) -> Iterator[pa.RecordBatch]:
    middle = _boundary(rows, rows.num_rows // 2) if rows.nbytes > max_bytes else 0
    if middle == 0:
        yield rows
    else:
        yield from _parts(rows.slice(0, middle), max_bytes)
        yield from _parts(rows.slice(middle), max_bytes)


def _boundary(rows: pa.RecordBatch, near: int) -> int:
    """A row near ``near`` that begins a change; 0 if there is none but the first."""
    if near == 0 or not _inside_update(rows, near):
        return near
    return near - 1 or (near + 1) % rows.num_rows


def _inside_update(rows: pa.RecordBatch, row: int) -> bool:
    def at(column: str, place: int) -> int:
        return int(rows.column(column)[place].as_py())

    return (
        at(OP, row) == Op.UPDATE_AFTER
        and at(OP, row - 1) == Op.UPDATE_BEFORE
        and at(COMMIT, row) == at(COMMIT, row - 1)
        and at(ORDINAL, row) == at(ORDINAL, row - 1)
    )
