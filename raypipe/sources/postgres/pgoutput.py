"""Reads pgoutput, protocol versions 1 to 4: messages in, events out, no I/O, no Python step per row or transaction.

Begin, Commit, Insert, Update, Delete and Origin come by the million and are read by column; everything else is rare
and read one by one by ``rare``. A run of the frequent ones is one ``Rows``, whatever relations and transactions it
goes through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from raypipe.errors import Corrupt
from raypipe.sources.postgres import rare
from raypipe.sources.postgres.events import (
    DELETE,
    INSERT,
    UPDATE,
    BeginPrepare,
    Event,
    Keepalive,
    Message,
    Numbers,
    Prepare,
    Rows,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Transactions,
    Truncate,
)
from raypipe.sources.postgres.frames import Bytes, Places, words
from raypipe.sources.postgres.wire import Gulp

POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01
_BEGIN, _COMMIT, _ORIGIN = b"BCO"
_XLOG_DATA, _KEEPALIVE = b"wk"
_XLOG_HEADER_BYTES = 25  # w, start LSN, end LSN, clock
_FREQUENT = np.zeros(256, np.bool_)
_FREQUENT[[INSERT, UPDATE, DELETE, _BEGIN, _COMMIT, _ORIGIN]] = True
_IS_ROW = np.zeros(256, np.bool_)
_IS_ROW[[INSERT, UPDATE, DELETE]] = True
# Bytes of a message without its strings and tuples, its kind included: shorter ones are cut off.
_LEAST_BYTES = np.zeros(256, np.int64)
_LEAST_BYTES[[INSERT, UPDATE, DELETE, _BEGIN, _COMMIT, _ORIGIN]] = [6, 6, 6, 21, 26, 10]


@dataclass(kw_only=True)
class _Open:
    """The transaction that is open between two runs."""

    xid: int
    final_lsn: int
    time_us: int
    ordinal: int = 0  # of its next row
    origin: str = ""


class Scanner:
    """Follows one replication stream; what it remembers is the transaction that is open.

    Args:
        protocol: Version asked for in START_REPLICATION; rows in progress come from 2 on.
    """

    def __init__(self, protocol: int = 1) -> None:
        self._protocol = protocol
        self._open: _Open | None = None
        self._streamed: dict[int, int] = {}  # ordinal of the next row by transaction in progress
        self._stream_xid: int | None = None  # inside a stream block: of its transaction

    def scan(self, gulp: Gulp) -> list[Event]:
        """The events of a gulp, in order; a keepalive last.

        Raises:
            Corrupt: bytes that are not pgoutput, or a message in a place where it cannot be.
        """
        buffer, at, size = gulp.buffer, gulp.at, gulp.size
        if (size < 1).any():
            raise _corrupt("a message is empty")
        kinds = buffer[at]
        events: list[Event] = []
        wal = kinds == _XLOG_DATA
        keepalive = None
        if not wal.all():
            keepalive = _keepalive(buffer, at[~wal], size[~wal])
            at, size = at[wal], size[wal]
        if len(at):
            if (size <= _XLOG_HEADER_BYTES).any():
                raise _corrupt("a message is cut off")
            events = self._scan(buffer, at + _XLOG_HEADER_BYTES, at + size)
        if keepalive is not None:
            events.append(keepalive)
        return events

    def _scan(self, buffer: Bytes, at: Places, end: Places) -> list[Event]:
        tags = buffer[at]
        if (end - at < _LEAST_BYTES[tags]).any():
            raise _corrupt("a message is cut off")
        events: list[Event] = []
        first = 0
        for place in np.flatnonzero(~_FREQUENT[tags]).tolist():
            if place > first:
                events.append(self._rows(buffer, at[first:place], end[first:place], tags[first:place]))
            event = self._rare(int(tags[place]), buffer[at[place] : end[place]].tobytes())
            if event is not None:
                events.append(event)
            first = place + 1
        if first < len(at):
            events.append(self._rows(buffer, at[first:], end[first:], tags[first:]))
        return events

    # Frequent messages

    def _rows(self, buffer: Bytes, at: Places, end: Places, tags: Numbers) -> Rows:
        if self._stream_xid is not None:
            return self._streamed_rows(buffer, at, end, tags)
        rows = np.flatnonzero(_IS_ROW[tags])
        begins, commits = np.flatnonzero(tags == _BEGIN), np.flatnonzero(tags == _COMMIT)
        before = self._open
        number = np.cumsum(tags == _BEGIN)  # of the transaction that each message belongs to
        if before is None:
            number -= 1
        _check_order(len(tags), begins, commits, number)
        transactions = self._transactions(buffer, at, rows, begins, commits, number)
        starts = np.searchsorted(rows, begins)  # the run's first row of each transaction that begins in it
        bases = -starts if before is None else np.concatenate([[before.ordinal], -starts])
        of_row = number[rows]
        ordinal = np.arange(len(rows)) + bases[of_row] if len(rows) else np.empty(0, np.int64)
        origins = self._origins(buffer, at, end, tags, number)
        self._remember(transactions, ordinal, of_row, begins, commits, origins)
        places = at[rows]
        return Rows(
            buffer=buffer,
            at=places + 5,
            end=end[rows],
            op=tags[rows],
            oid=words(buffer, ">u4")[places + 1],
            transaction=of_row,
            ordinal=ordinal,
            transactions=Transactions(**transactions, continued=before is not None, origins=origins),
            bytes=int((end - at).sum()),
        )

    def _transactions(
        self, buffer: Bytes, at: Places, rows: Places, begins: Places, commits: Places, number: Places
    ) -> dict[str, Numbers]:
        wide, narrow = words(buffer, ">i8"), words(buffer, ">u4")
        begin, commit = at[begins], at[commits]
        xid = narrow[begin + 17].astype(np.int64)
        final_lsn = wide[begin + 1].astype(np.int64)
        time_us = wide[begin + 9].astype(np.int64) + POSTGRES_EPOCH_US
        if self._open is not None:
            xid = np.concatenate([[self._open.xid], xid])
            final_lsn = np.concatenate([[self._open.final_lsn], final_lsn])
            time_us = np.concatenate([[self._open.time_us], time_us])
        end_lsn = np.zeros(len(xid), np.int64)
        end_row = np.full(len(xid), len(rows), np.int64)
        end_lsn[number[commits]] = wide[commit + 10]
        end_row[number[commits]] = np.searchsorted(rows, commits)
        return {"xid": xid, "final_lsn": final_lsn, "time_us": time_us, "end_lsn": end_lsn, "end_row": end_row}

    def _origins(self, buffer: Bytes, at: Places, end: Places, tags: Numbers, number: Places) -> dict[int, str]:
        """Origins by transaction; a server that applies somebody else's changes sends one in each of those."""
        places = np.flatnonzero(tags == _ORIGIN)
        names = {0: self._open.origin} if self._open is not None and self._open.origin else {}
        for place in places.tolist():
            try:
                names[int(number[place])] = rare.origin(buffer[at[place] : end[place]].tobytes())
            except (ValueError, rare.CutOff) as error:
                raise _corrupt("an origin cannot be read") from error
        return names

    def _remember(
        self,
        transactions: dict[str, Numbers],
        ordinal: Places,
        of_row: Places,
        begins: Places,
        commits: Places,
        origins: dict[int, str],
    ) -> None:
        """Keeps the transaction that stays open."""
        last = len(transactions["xid"]) - 1
        ended = len(commits) and (not len(begins) or commits[-1] > begins[-1])
        if ended or last < 0:
            self._open = None
            return
        next_ordinal = int(ordinal[-1]) + 1 if len(of_row) and of_row[-1] == last else None
        if next_ordinal is None:
            next_ordinal = self._open.ordinal if self._open is not None and not len(begins) else 0
        self._open = _Open(
            xid=int(transactions["xid"][last]),
            final_lsn=int(transactions["final_lsn"][last]),
            time_us=int(transactions["time_us"][last]),
            ordinal=next_ordinal,
            origin=origins.get(last, ""),
        )

    def _streamed_rows(self, buffer: Bytes, at: Places, end: Places, tags: Numbers) -> Rows:
        """Rows of a transaction in progress: each names its subtransaction, and there is neither begin nor commit."""
        assert self._stream_xid is not None
        if not _IS_ROW[tags[tags != _ORIGIN]].all():
            raise _corrupt("a transaction begins or ends inside one that is in progress")
        rows = tags != _ORIGIN
        at, end, tags = at[rows], end[rows], tags[rows]
        if (end - at < 10).any():
            raise _corrupt("a message is cut off")
        narrow = words(buffer, ">u4")
        first = self._streamed[self._stream_xid]
        self._streamed[self._stream_xid] = first + len(at)
        one = np.zeros(1, np.int64)
        return Rows(
            buffer=buffer,
            at=at + 9,
            end=end,
            op=tags,
            oid=narrow[at + 5],
            transaction=np.zeros(len(at), np.int64),
            ordinal=np.arange(first, first + len(at)),
            transactions=Transactions(
                xid=one + self._stream_xid,
                final_lsn=one,
                time_us=one,
                end_lsn=one,
                end_row=one + len(at),
                continued=True,
            ),
            streamed_xid=self._stream_xid,
            subxid=narrow[at + 1],
            bytes=int((end - at).sum()),
        )

    # Rare messages

    def _rare(self, tag: int, message: bytes) -> Event | None:
        try:
            event = rare.read(tag, message, in_stream=self._stream_xid is not None)
        except (IndexError, ValueError, rare.CutOff) as error:
            raise _corrupt(f"a message of kind {chr(tag)!r} cannot be read") from error
        return self._follow(event)

    def _follow(self, event: Event) -> Event:
        """Lets a rare event change what the scanner remembers."""
        match event:
            case StreamStart():
                if self._stream_xid is not None or self._open is not None:
                    raise _corrupt("a transaction in progress is sent inside another")
                self._stream_xid = event.xid
                self._streamed.setdefault(event.xid, 0)
            case StreamStop():
                self._stream_xid = None
            case StreamCommit() | Prepare(streamed=True):
                self._streamed.pop(event.xid, None)
            case StreamAbort(xid=xid, subxid=subxid) if xid == subxid:
                self._streamed.pop(xid, None)
            case BeginPrepare():
                self._open = _Open(xid=event.xid, final_lsn=event.prepare_lsn, time_us=event.time_us)
            case Prepare():
                self._open = None
            case Truncate():
                return self._placed(event, len(event.oids))
            case Message(transactional=True):
                return self._placed(event, 1)
            case _:
                pass
        return event

    def _placed(self, event: Truncate | Message, count: int) -> Truncate | Message:
        """The event with its place among the rows of its transaction, of which it takes ``count``."""
        if self._stream_xid is not None:
            ordinal = self._streamed[self._stream_xid]
            self._streamed[self._stream_xid] = ordinal + count
            return replace(event, ordinal=ordinal)
        if self._open is None:
            raise _corrupt("a TRUNCATE or a message stands outside a transaction")
        ordinal, self._open.ordinal = self._open.ordinal, self._open.ordinal + count
        return replace(
            event,
            ordinal=ordinal,
            final_lsn=self._open.final_lsn,
            time_us=self._open.time_us,
            xid=self._open.xid,
        )


def _check_order(messages: int, begins: Places, commits: Places, number: Places) -> None:
    """Begin and commit take turns, and nothing stands outside."""
    outside = number < 0
    ends = np.zeros(messages, np.int64)
    ends[commits] = 1
    # After a commit nothing may come before the next begin: a message's transaction must not have ended before it.
    ended = np.cumsum(ends) - ends
    if outside.any() or (ended > number).any():
        raise _corrupt("a change stands outside a transaction")
    if len(begins) and (np.cumsum(ends)[begins] < number[begins]).any():
        raise _corrupt("a transaction begins inside another")


def _keepalive(buffer: Bytes, at: Places, size: Places) -> Keepalive:
    if (buffer[at] != _KEEPALIVE).any() or (size < 18).any():
        raise _corrupt("a message is neither WAL data nor a keepalive")
    wide = words(buffer, ">i8")
    last = at[-1]
    return Keepalive(
        end_lsn=int(wide[last + 1]),
        reply_requested=bool((buffer[at + 17] != 0).any()),
        time_us=int(wide[last + 9]) + POSTGRES_EPOCH_US,
    )


def _corrupt(what: str) -> Corrupt:
    return Corrupt(
        f"PostgreSQL's logical replication stream cannot be read: {what}.",
        remedy="Look for a proxy between raypipe and the server, and report this with the server's version.",
    )
