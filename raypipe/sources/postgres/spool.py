"""Keeps transactions that the server sends while they are in progress on disk, until they commit or come to nothing.

Nothing of them may be seen before: neither downstream nor in an order. So their messages wait in one file each, as they
came; the commit hands them out in parts, rows of subtransactions that were rolled back left out. Ordinals count what
is left, so they are those that the server would give if it sent the transaction whole.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from raypipe.sources.postgres.events import (
    Event,
    Message,
    Relation,
    Rows,
    StreamAbort,
    StreamCommit,
    Transactions,
    Truncate,
)
from raypipe.sources.postgres.frames import PADDING_BYTES


class _Waiting:
    """One transaction's file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = path.open("w+b")
        self.undone: set[int] = set()

    def close(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


class Spool:
    """Transactions in progress of one stream, in a temporary folder that goes with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="raypipe-spool-")
        self._waiting: dict[int, _Waiting] = {}

    def keep(self, xid: int, event: Rows | Relation | Truncate | Message) -> None:
        """Writes what was sent of a transaction behind what was sent before."""
        if xid not in self._waiting:
            self._waiting[xid] = _Waiting(Path(self._folder.name) / str(xid))
        file = self._waiting[xid].file
        if not isinstance(event, Rows):
            pickle.dump(event, file)
        elif len(event):
            first, last = int(event.at[0]), int(event.end[-1])
            record = (
                event.buffer[first:last].tobytes(),
                event.at - first,
                event.end - first,
                event.op,
                event.oid,
                event.subxid,
            )
            pickle.dump(record, file, protocol=pickle.HIGHEST_PROTOCOL)

    def undo(self, event: StreamAbort) -> None:
        """A transaction, or a part of it, was rolled back."""
        waiting = self._waiting.get(event.xid)
        if waiting is None:
            return
        if event.subxid == event.xid:
            self._waiting.pop(event.xid).close()
        else:
            waiting.undone.add(event.subxid)

    def commit(self, event: StreamCommit) -> Iterator[Event]:
        """What is left of a transaction, as if it had been sent when it committed."""
        waiting = self._waiting.get(event.xid)
        ordinal = 0
        if waiting is not None:
            waiting.file.seek(0)
            while (record := _read(waiting.file)) is not None:
                if isinstance(record, tuple):
                    rows = _rows(record, waiting.undone, event, ordinal)
                    ordinal += len(rows)
                    yield rows
                elif record.xid in waiting.undone:
                    continue
                elif isinstance(record, Truncate | Message):
                    placed = replace(
                        record, ordinal=ordinal, final_lsn=event.commit_lsn, time_us=event.time_us, xid=event.xid
                    )
                    ordinal += len(record.oids) if isinstance(record, Truncate) else 1
                    yield placed
                else:
                    yield record
            self._waiting.pop(event.xid).close()
        empty = np.empty(0, np.int64)
        nothing = (b"", empty, empty, empty.astype(np.uint8), empty.astype(np.uint32), empty.astype(np.uint32))
        ended = _rows(nothing, set(), event, ordinal)
        yield replace(ended, transactions=replace(ended.transactions, end_lsn=np.array([event.end_lsn], np.int64)))

    def close(self) -> None:
        """Removes everything; idempotent."""
        for waiting in self._waiting.values():
            waiting.close()
        self._waiting.clear()
        self._folder.cleanup()


def _read(file: BinaryIO) -> Any:
    try:
        return pickle.load(file)
    except EOFError:
        return None


def _rows(record: tuple[Any, ...], undone: set[int], event: StreamCommit, ordinal: int) -> Rows:
    content, at, end, op, oid, subxid = record
    if undone:
        kept = ~np.isin(subxid, np.array(sorted(undone), np.int64))
        at, end, op, oid = at[kept], end[kept], op[kept], oid[kept]
    buffer = np.zeros(len(content) + PADDING_BYTES, np.uint8)
    buffer[: len(content)] = np.frombuffer(content, np.uint8)
    count = len(at)
    return Rows(
        buffer=buffer,
        at=at,
        end=end,
        op=op,
        oid=oid,
        transaction=np.zeros(count, np.int64),
        ordinal=np.arange(ordinal, ordinal + count),
        transactions=Transactions(
            xid=np.array([event.xid], np.int64),
            final_lsn=np.array([event.commit_lsn], np.int64),
            time_us=np.array([event.time_us], np.int64),
            end_lsn=np.zeros(1, np.int64),
            end_row=np.array([count], np.int64),
            continued=True,
        ),
        bytes=len(content),
    )
