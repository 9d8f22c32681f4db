"""Cuts a source's changes and loads into pieces: what goes into one, in which order, and where it ends.

A piece is gathered in one read transaction, in this order: the TRUNCATE of every table whose load begins, changes by
number, and, if all of them fit, the next chunks of the loading tables. An event (a table altered, dropped, or captured
anew) begins a piece of its own, so a piece never holds changes of one table from both sides of a load's beginning.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raypipe.contracts import Piece
from raypipe.errors import Unavailable
from raypipe.model import ChangeBatch, Op
from raypipe.sources.sqlite.connect import reading
from raypipe.sources.sqlite.decode import Part, batch_of, decode, parked_in
from raypipe.sources.sqlite.gaps import PRUNED, gap, require_same
from raypipe.sources.sqlite.install import Capture, follow, read_captures, schema_cookie, separate
from raypipe.sources.sqlite.position import Position
from raypipe.sources.sqlite.quarantine import Parked, quarantine_batch
from raypipe.sources.sqlite.snapshot import fill_chunk, fill_truncate
from raypipe.sources.sqlite.spool import Spool
from raypipe.sources.sqlite.stream import (
    Clock,
    fill_changes,
    next_event,
    read_clock,
    read_mark,
    tables_to_load,
)

# Rows of one piece at most: about a tenth of a second of copying, which is how long a read transaction may keep a
# writer from committing to a database with a rollback journal.
PIECE_ROWS = 131_072

# A guess at a row's size until a piece was measured; wide, so that the first piece is rather too small.
ROW_BYTES = 1024

# Fewer rows than this say nothing about the size of a row: the spool's empty pages outweigh them.
ROWS_TO_MEASURE = 1000

# A schema that changes between every two looks at it is somebody's migration in progress: come back later.
SCHEMA_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a reader stands.

    Attributes:
        position: After the last piece.
        restart: Tables to empty, and to load from the start, before anything else.
        empty_quarantine: Likewise the quarantine.
    """

    position: Position
    restart: frozenset[str] = frozenset()
    empty_quarantine: bool = False


@dataclass(kw_only=True)
class _Gathered:
    """What one read transaction put into the spool, and where it leads.

    Attributes:
        stand: Afterwards, but for the rows parked, which decoding will tell.
        commit: Transaction boundary that its changes belong to.
        boundary: Whether it ends on one.
        pending: Changes left in the source.
        rows: Spooled, by number of the capture.
        emptied_at: Change number at which the quarantine is emptied, None if it is not.
    """

    stand: Stand
    commit: int
    boundary: bool = True
    pending: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    emptied_at: int | None = None


def in_line(connection: sqlite3.Connection, instance: str, tables: Sequence[str], *, seen_whole: int | None) -> int:
    """Brings the capture in line with the tables; returns the schema's cookie at a moment at which it was.

    Raises:
        Unavailable: the schema does not come to rest.
    """
    for _ in range(SCHEMA_TRIES):
        before = schema_cookie(connection)
        follow(connection, tables, seen_whole=seen_whole)
        if schema_cookie(connection) == before:
            return before
    raise restless(instance)


def restless(instance: str) -> Unavailable:
    """The error for a schema that changes at every look."""
    return Unavailable(f"The schema of source {instance!r} changes faster than it can be read.")


def in_force(captures: Collection[Capture]) -> dict[str, Capture]:
    """The captures that have not ended, by table."""
    return {capture.table: capture for capture in captures if capture.until is None}


class Reader:
    """Reads one source from a stand on, one piece at a time.

    Args:
        instance: Name.
        connection: To the source.
        spool: Attached to it.
        tables: Chosen.
        cookie: Of the schema when the capture was last in line.
        stand: To begin at; a piece that fails leaves it as it was.
    """

    def __init__(
        self,
        *,
        instance: str,
        connection: sqlite3.Connection,
        spool: Spool,
        tables: Sequence[str],
        cookie: int,
        stand: Stand,
    ) -> None:
        self._instance = instance
        self._connection = connection
        self._spool = spool
        self._tables = tables
        self._cookie = cookie
        self._captures = read_captures(connection, tables)
        self._row_bytes = ROW_BYTES
        self.stand = stand
        if stand.position.cookie not in (None, cookie):
            self._distrust_rowids()

    @property
    def captures(self) -> Mapping[str, Capture]:
        """Captures in force, by table."""
        return in_force(self._captures)

    def next_piece(self, max_bytes: int, limit: Position | None) -> Piece | None:
        """The next piece; None if there is nothing new, or nothing before the limit.

        Raises:
            SourceGap: the file's content was exchanged, or changes are missing.
        """
        gathered = self._gather(max_bytes, limit)
        return None if gathered is None else self._finish(gathered)

    # Gathering, inside a read transaction

    def _gather(self, max_bytes: int, limit: Position | None) -> _Gathered | None:
        for _ in range(SCHEMA_TRIES):
            with self._spool.gathering():
                if schema_cookie(self._connection) == self._cookie:
                    clock = read_clock(self._connection, self._instance)
                    return self._gather_upto(clock, max_bytes, limit)
            position = self.stand.position
            with reading(self._connection):
                # Not to put back, in another file or where somebody has just removed it, what is no longer there.
                require_same(read_clock(self._connection, self._instance), self._instance, position)
            seen_whole = max(position.seq, position.upto or 0)
            self._cookie = in_line(self._connection, self._instance, self._tables, seen_whole=seen_whole)
            self._captures = read_captures(self._connection, self._tables)
            self._distrust_rowids()
        raise restless(self._instance)

    def _distrust_rowids(self) -> None:
        """After a change of the schema, which may have been a VACUUM: rowids may now mean other rows."""
        position = self.stand.position
        movable = {
            table: capture.shape
            for table, capture in self.captures.items()
            if capture.shape.rowid and not capture.shape.stable_rowid
        }
        parked_by_rowid = {table for table in position.parked if table in movable and not movable[table].key}
        self._restart((position.loading.keys() & movable.keys()) | parked_by_rowid)

    def _restart(self, tables: Collection[str]) -> None:
        if tables:
            separate(self._connection)
            self.stand = replace(self.stand, restart=self.stand.restart | frozenset(tables))

    def _gather_upto(self, clock: Clock, max_bytes: int, limit: Position | None) -> _Gathered | None:
        stand, position = self.stand, self.stand.position
        require_same(clock, self._instance, position)
        bound = position.upto or clock.seq
        if limit is not None:
            if limit.identity != position.identity:
                raise gap(self._instance, "the position to read up to is one of another database")
            if position.seq >= limit.seq:
                return None
            bound = min(limit.seq, clock.seq)
        if position.seq == clock.seq and not (position.loading or stand.restart or stand.empty_quarantine):
            return None

        self._spool.clear()
        gathered = _Gathered(stand=stand, commit=bound)
        at = position.seq
        event = next_event(self._captures, at, bound)
        if event == at + 1:
            at = event
            stand = replace(stand, restart=stand.restart | tables_to_load(self._captures, at))
            event = next_event(self._captures, at, bound)
        stop = bound if event is None else event - 1
        loading = self._begin_loads(gathered, stand, at)
        reached = self._spool_changes(gathered, at, stop, max_bytes, loading)
        if reached == clock.seq:
            loading = self._spool_chunks(gathered, reached, max_bytes, loading)

        mark = read_mark(self._connection, reached)
        if mark is None:
            raise gap(self._instance, PRUNED)
        # What lies before an event may have been recorded by triggers of an older shape: no cut until it is behind us.
        gathered.boundary = reached == bound
        gathered.pending = clock.seq - reached
        gathered.stand = Stand(
            position=replace(
                position,
                seq=reached,
                mark=mark,
                upto=bound if reached < bound else None,
                loading=loading,
            )
        )
        return gathered

    def _begin_loads(self, gathered: _Gathered, stand: Stand, at: int) -> dict[str, tuple[str, ...]]:
        """Spools a TRUNCATE for every table to be loaded; returns the cursors of all that are loading then.

        The quarantine knows which rows it holds, but not which of them a TRUNCATE of a table releases. So if it holds
        any of that table, it is emptied too, and the other tables that have rows in it are loaded again with it.
        """
        restart = set(stand.restart)
        parked = {table for table, rows in stand.position.parked.items() if rows}
        if stand.empty_quarantine or restart & parked:
            restart |= parked
            gathered.emptied_at = at
        latest = {capture.table: capture for capture in self._captures if capture.since <= at}
        for table in sorted(restart & latest.keys()):
            gathered.rows[latest[table].number] = fill_truncate(self._spool, latest[table], at)
        loading = {table: cursor for table, cursor in stand.position.loading.items() if table not in restart}
        alive = (table for table in sorted(restart & latest.keys()) if not _ended(latest[table], at))
        return loading | dict.fromkeys(alive, ())

    def _spool_changes(
        self, gathered: _Gathered, after: int, stop: int, max_bytes: int, loading: Mapping[str, tuple[str, ...]]
    ) -> int:
        """Spools changes up to a number, or as many as fit; returns the number reached."""
        while after < stop and not self._is_full(gathered, max_bytes):
            upto = min(stop, after + self._rows_at_once(max_bytes))
            for number, rows in fill_changes(self._spool, self._captures, after, upto, loading).items():
                gathered.rows[number] = gathered.rows.get(number, 0) + rows
            after = upto
        return after

    def _spool_chunks(
        self, gathered: _Gathered, seq: int, max_bytes: int, loading: Mapping[str, tuple[str, ...]]
    ) -> dict[str, tuple[str, ...]]:
        """Spools the next rows of the loading tables, table by table, as many as fit; returns the new cursors."""
        left = dict(loading)
        for table, capture in self.captures.items():
            while table in left and not self._is_full(gathered, max_bytes):
                rows, cursor = fill_chunk(self._spool, capture, left[table], seq, self._rows_at_once(max_bytes))
                gathered.rows[capture.number] = gathered.rows.get(capture.number, 0) + rows
                if cursor is None:
                    del left[table]
                else:
                    left[table] = cursor
        return left

    def _rows_at_once(self, max_bytes: int) -> int:
        """Rows to copy before looking at the size again: a quarter of what should fit."""
        return max(1, min(PIECE_ROWS, max_bytes // self._row_bytes) // 4)

    def _is_full(self, gathered: _Gathered, max_bytes: int) -> bool:
        rows = sum(gathered.rows.values())
        return rows >= PIECE_ROWS or (rows > 0 and self._spool.bytes() >= max_bytes)

    # Finishing, after it

    def _finish(self, gathered: _Gathered) -> Piece:
        """Decodes what was spooled; only then does the reader stand behind it."""
        total = sum(gathered.rows.values())
        if total >= ROWS_TO_MEASURE:
            self._row_bytes = max(1, self._spool.bytes() // total)
        batches, parked = self._decode(gathered)
        before = self.stand.position.parked
        after = {} if gathered.emptied_at is not None else dict(before)
        for row in parked:
            after[row.table] = after.get(row.table, 0) + (-1 if row.op is Op.DELETE else 1)
        if parked or gathered.emptied_at is not None:
            batches.append(quarantine_batch(self._instance, gathered.commit, gathered.emptied_at, parked))
        kept = {table: rows for table, rows in after.items() if rows}
        rowids_matter = bool(kept or gathered.stand.position.loading)
        position = replace(gathered.stand.position, parked=kept, cookie=self._cookie if rowids_matter else None)
        self.stand = replace(gathered.stand, position=position)
        return Piece(
            batches=tuple(batches),
            position=position.to_text(),
            boundary=gathered.boundary,
            loading=tuple(f"{self._instance}.{table}" for table in sorted(position.loading)),
            pending=gathered.pending,
            parked=sum(after.values()) - sum(before.values()),
        )

    def _decode(self, gathered: _Gathered) -> tuple[list[ChangeBatch], list[Parked]]:
        batches: list[ChangeBatch] = []
        parked: list[Parked] = []
        for capture in self._captures:
            rows = gathered.rows.get(capture.number, 0)
            if not rows:
                continue
            part = Part(spool=self._spool, number=capture.number, shape=capture.shape, first=1, rows=rows)
            decoded = decode(part)
            batch = batch_of(decoded, capture.shape.schema(self._instance, capture.version), gathered.commit)
            if batch is not None:
                batches.append(batch)
            parked += parked_in(part, decoded)
        return batches, sorted(parked, key=lambda row: row.ordinal)


def _ended(capture: Capture, at: int) -> bool:
    return capture.until is not None and capture.until <= at
