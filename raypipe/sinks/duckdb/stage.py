"""Keeps an epoch's changes of one keyed table on disk until the epoch ends, and then hands out each key once.

A row that is written and deleted again in one DuckDB transaction is expensive: DuckDB writes a row group to its file
early only if nothing in it was deleted, and keeps eight bytes for each deleted row that it cannot spill: inserts
and random updates of 10 M rows failed for want of memory under a limit of 96 MB. So a key is written once in a
transaction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.sinks.netting import last_of_each
from raypipe.sinks.pending import APPLY_ROWS
from raypipe.sinks.sharding import shard_of

# Rows are spread over so many parts of the file by the hash of their key; parts are joined to APPLY_ROWS again when
# they are small and divided further when they are large, so the number matters little.
_PARTS = 64
_PRESENT = "_raypipe_present"


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What becomes of some keys.

    Attributes:
        upserts: Rows present afterwards, one for each key.
        deletes: Keys absent afterwards; none is in both.
    """

    upserts: pa.Table
    deletes: pa.Table


@dataclass(frozen=True, kw_only=True)
class _Piece:
    offset: int
    size: int
    rows: int


class Stage:
    """Replacements of one table, in order; each knows its keys once, several may have the same key.

    Args:
        folder: Where the file lies; it has no name there and is gone with the process.
        identity: The key columns of the table.
    """

    def __init__(self, folder: Path, identity: list[str]) -> None:
        self.identity = identity
        self._folder = folder
        self._first: Replacement | None = None
        self._schema: pa.Schema | None = None
        self._file: IO[bytes] | None = None
        self._end = 0
        self._pieces: list[list[_Piece]] = [[] for _ in range(_PARTS)]

    def add(self, replacement: Replacement) -> None:
        """Takes a replacement; the first one stays in memory, as most epochs have no second.

        Raises:
            OSError: the disk is full.
        """
        if self._first is None and self._file is None:
            self._first = replacement
            return
        if self._first is not None:
            first, self._first = self._first, None
            self._write(first)
        self._write(replacement)

    def take(self) -> Iterator[Replacement]:
        """Everything, about ``APPLY_ROWS`` rows at a time; no two have a key in common. The stage is spent then.

        Raises:
            OSError: the file cannot be read.
        """
        if self._first is not None:
            yield self._first
            return
        group: list[list[_Piece]] = []
        rows = 0
        for pieces in self._pieces:
            size = sum(piece.rows for piece in pieces)
            if group and rows + size > APPLY_ROWS:
                yield self._net(self._read(group))
                group, rows = [], 0
            if size > 2 * APPLY_ROWS:
                yield from self._divided(pieces, -(-size // APPLY_ROWS))
            elif size:
                group.append(pieces)
                rows += size
        if group:
            yield self._net(self._read(group))

    def close(self) -> None:
        """Forgets everything; idempotent."""
        self._first = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, replacement: Replacement) -> None:
        rows = _marked(replacement)
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._schema = rows.schema
        part = shard_of(rows, self.identity, _PARTS)
        rows = rows.take(pa.array(np.argsort(part, kind="stable")))
        ends = np.cumsum(np.bincount(part, minlength=_PARTS))
        begin = 0
        for pieces, end in zip(self._pieces, ends.tolist(), strict=True):
            if end > begin:
                body = rows.slice(begin, end - begin).serialize()
                self._file.write(body)
                pieces.append(_Piece(offset=self._end, size=body.size, rows=end - begin))
                self._end += body.size
            begin = end

    def _read(self, group: list[list[_Piece]]) -> pa.RecordBatch:
        return pa.concat_batches([self._piece(piece) for pieces in group for piece in pieces])

    def _piece(self, piece: _Piece) -> pa.RecordBatch:
        assert self._file is not None
        self._file.seek(piece.offset)
        return pa.ipc.read_record_batch(pa.py_buffer(self._file.read(piece.size)), self._schema)

    def _divided(self, pieces: list[_Piece], times: int) -> Iterator[Replacement]:
        """A part too large for memory, read ``times`` over, each time for other keys."""
        for turn in range(times):
            mine = []
            for piece in pieces:
                rows = self._piece(piece)
                chosen = shard_of(rows, self.identity, _PARTS * times) // _PARTS == turn
                mine.append(rows.filter(pa.array(chosen)))
            yield self._net(pa.concat_batches(mine))

    def _net(self, rows: pa.RecordBatch) -> Replacement:
        rows = rows.take(pa.array(last_of_each(rows.select(self.identity))))
        present = rows.column(_PRESENT)
        table = pa.Table.from_batches([rows]).drop_columns([_PRESENT])
        return Replacement(
            upserts=table.filter(present), deletes=table.select(self.identity).filter(pc.invert(present))
        )


def _marked(replacement: Replacement) -> pa.RecordBatch:
    """Both parts as one batch; a key that goes has NULL in the other columns."""
    upserts, deletes = replacement.upserts, replacement.deletes
    columns = [
        pa.chunked_array(
            [
                *upserts.column(field.name).chunks,
                *(
                    deletes.column(field.name).chunks
                    if field.name in deletes.column_names
                    else [pa.nulls(deletes.num_rows, field.type)]
                ),
            ],
            field.type,
        ).combine_chunks()
        for field in upserts.schema
    ]
    present = pa.array(np.arange(upserts.num_rows + deletes.num_rows) < upserts.num_rows)
    return pa.RecordBatch.from_arrays([*columns, present], names=[*upserts.column_names, _PRESENT])
