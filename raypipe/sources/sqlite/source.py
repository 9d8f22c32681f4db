"""The SQLite source: drives capture, stream, snapshot and quarantine, and gives out pieces."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from raypipe import faults
from raypipe.contracts import Piece, SourceView
from raypipe.errors import InvariantBroken, SchemaMismatch, SourceGap, Unavailable
from raypipe.model import ChangeBatch, Op, TableSchema
from raypipe.sources.sqlite.connect import answers, connect, inspecting, path_of, quoted, reading
from raypipe.sources.sqlite.decode import Part, batch_of, decode, parked_in
from raypipe.sources.sqlite.install import Capture, follow, installed, read_captures, schema_cookie
from raypipe.sources.sqlite.position import Position
from raypipe.sources.sqlite.prune import Pruner
from raypipe.sources.sqlite.quarantine import QUARANTINE, Parked, quarantine_batch
from raypipe.sources.sqlite.schema import read_shape, require_tables
from raypipe.sources.sqlite.snapshot import fill_chunk, fill_table, fill_truncate
from raypipe.sources.sqlite.spool import Spool
from raypipe.sources.sqlite.stream import Clock, fill_changes, next_event, read_clock, read_mark, tables_to_load
from raypipe.sources.sqlite.view import SqliteView

# Rows of one piece at most: about a tenth of a second of copying, which is how long a read transaction may keep a
# writer from committing to a database with a rollback journal.
PIECE_ROWS = 131_072

# A guess at a row's size until a piece was measured; wide, so that the first piece is rather too small.
ROW_BYTES = 1024

# How often an idle reader looks: PRAGMA data_version costs some microseconds, so this is what bounds its latency.
LOOK_EVERY_S = 0.004

# A schema that changes between every two looks at it is somebody's migration in progress: come back later.
SCHEMA_TRIES = 20


@dataclass(kw_only=True)
class _State:
    """Where the reader stands; replaced as a whole when a piece is complete, so that a failed poll changes nothing.

    Attributes:
        position: As in the last piece.
        restart: Tables to empty and load from the start before anything else.
        empty_quarantine: Likewise the quarantine.
    """

    position: Position
    restart: frozenset[str] = frozenset()
    empty_quarantine: bool = False


@dataclass(kw_only=True)
class _Gathered:
    """What one read transaction put into the spool, and the position it leads to.

    Attributes:
        state: Afterwards, but for the rows parked, which decoding will tell.
        commit: Transaction boundary that its changes belong to.
        boundary: Whether it ends on one.
        pending: Changes left in the source.
        rows: Spooled, by number of the capture.
        emptied_at: Change number at which the quarantine is emptied, None if it is not.
    """

    state: _State
    commit: int
    boundary: bool
    pending: int
    rows: dict[int, int] = field(default_factory=dict)
    emptied_at: int | None = None


class SqliteSource:
    """One SQLite database, read through the changes that its triggers record; see ``raypipe.contracts.Source``."""

    def __init__(self, instance: str, url: str, tables: Sequence[str]) -> None:
        self.instance = instance
        self._path = path_of(url)
        self._tables = tuple(sorted(tables))
        self._connection: sqlite3.Connection | None = None
        self._row_bytes = ROW_BYTES
        self._seen: int | None = None

    # Looking, without side effects

    def tables(self) -> tuple[TableSchema, ...]:
        """See ``raypipe.contracts.Source``; works before the capture is installed."""
        with inspecting(self._path) as connection:
            require_tables(connection, self.instance, self._tables)
            versions = {}
            if installed(connection):
                versions = {capture.table: capture for capture in read_captures(connection, self._tables)}
            schemas = []
            for table in self._tables:
                shape, capture = read_shape(connection, table), versions.get(table)
                if shape is None:
                    raise SchemaMismatch(f"Table {table!r} of source {self.instance!r} is gone.")
                version = 1
                if capture is not None:
                    version = capture.version + (
                        (shape.columns, shape.key) != (capture.shape.columns, capture.shape.key)
                    )
                schemas.append(shape.schema(self.instance, version))
            return tuple(schemas)

    @contextmanager
    def view(self) -> Iterator[SourceView]:
        """See ``raypipe.contracts.Source``.

        The tables are copied into a temporary file within one read transaction, so no lock outlives the copying; it
        takes about their size in the temporary directory. If a table was altered since the reader last looked, the
        capture is first brought in line, so that the position lies behind the change of the schema.
        """
        connection = connect(self._path)
        try:
            with answers(self._path):
                spool = Spool(connection)
            try:
                with answers(self._path):
                    view = self._take_view(connection, spool)
                yield view
            finally:
                spool.close()
        finally:
            connection.close()

    def _take_view(self, connection: sqlite3.Connection, spool: Spool) -> SqliteView:
        for _ in range(SCHEMA_TRIES):
            cookie = self._follow(connection, seen_whole=None)
            with spool.gathering():
                clock = read_clock(connection, self.instance)
                if schema_cookie(connection) != cookie:
                    continue
                current = _current(read_captures(connection, self._tables))
                rows = {capture.number: fill_table(spool, capture, clock.seq) for capture in current.values()}
                position = Position(
                    identity=clock.identity,
                    seq=clock.seq,
                    mark=read_mark(connection, clock.seq) or 0,
                    tables=self._tables,
                )
            captures = {table: current.get(table) for table in self._tables}
            return SqliteView(self.instance, position.to_text(), spool, captures, rows)
        raise self._restless()

    # Opening

    def open(self, position: str | None, reload: Collection[str] = ()) -> None:
        """See ``raypipe.contracts.Source``; installs the capture if there is none and the position is None."""
        self.close()
        self._row_bytes = ROW_BYTES
        connection = connect(self._path)
        try:
            with answers(self._path):
                self._file = self._file_identity()
                stands = None if position is None else self._resume(connection, Position.parse(position))
                seen_whole = None if stands is None else max(stands.seq, stands.upto or 0)
                self._cookie = self._follow(connection, seen_whole)
                with reading(connection):
                    clock = read_clock(connection, self.instance)
                    mark = read_mark(connection, clock.seq) or 0
                self._captures = read_captures(connection, self._tables)
                self._spool = Spool(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._pruner = Pruner(connection)
        self._seen = None
        chosen = {name.removeprefix(f"{self.instance}.") for name in reload}
        if stands is None:
            begin = Position(identity=clock.identity, seq=clock.seq, mark=mark, tables=self._tables)
            self._state = _State(position=begin, restart=frozenset(self._tables), empty_quarantine=True)
            return
        restart = (chosen | (set(self._tables) - set(stands.tables))) & set(self._tables)
        if stands.loading and stands.cookie != self._cookie:
            restart |= self._unstable(stands)
        loading = {table: cursor for table, cursor in stands.loading.items() if table in self._tables}
        parked = {table: rows for table, rows in stands.parked.items() if table in self._tables}
        self._state = _State(
            position=replace(stands, tables=self._tables, loading=loading, parked=parked),
            restart=frozenset(restart),
            empty_quarantine=QUARANTINE in chosen or parked != stands.parked,
        )

    def _resume(self, connection: sqlite3.Connection, position: Position) -> Position:
        """Checks that the source can still serve what follows a position."""
        with reading(connection):
            clock = read_clock(connection, self.instance)
            mark = read_mark(connection, position.seq)
        self._require_same(clock, position)
        if clock.pruned > position.seq:
            raise self._gap("the changes that follow were pruned, as another pipeline on the same source would do")
        if mark != position.mark:
            raise self._gap("it is a copy of the database that was restored and has moved on since")
        return position

    def _require_same(self, clock: Clock, position: Position) -> None:
        if clock.identity != position.identity:
            raise self._gap("the capture in it is not the one the log was read from: it is another database")
        if clock.seq < position.seq:
            raise self._gap("it is an older copy of the database")

    def _gap(self, why: str) -> SourceGap:
        return SourceGap(
            f"Source {self.instance!r} cannot go on from the log's position: {why}.",
            remedy="Put the right file back, or run the pipeline with a new log, which loads all tables again.",
        )

    def _restless(self) -> Unavailable:
        return Unavailable(f"The schema of source {self.instance!r} changes faster than it can be read.")

    def _follow(self, connection: sqlite3.Connection, seen_whole: int | None) -> int:
        """Brings the capture in line; returns the schema's cookie at a moment at which it was."""
        for _ in range(SCHEMA_TRIES):
            before = schema_cookie(connection)
            follow(connection, self._tables, seen_whole=seen_whole)
            after = schema_cookie(connection)
            if before == after:
                return after
        raise self._restless()

    def _unstable(self, position: Position) -> set[str]:
        """Tables whose state here rests on rowids that a VACUUM may have given to other rows."""
        unstable = {
            table: capture.shape
            for table, capture in _current(self._captures).items()
            if capture.shape.rowid and not capture.shape.stable_rowid
        }
        parked_by_rowid = {table for table in position.parked if table in unstable and not unstable[table].key}
        return (set(position.loading) & set(unstable)) | parked_by_rowid

    # Reading

    def poll(self, max_bytes: int, upto: str | None = None) -> Piece | None:
        """See ``raypipe.contracts.Source``; None too where the reader stands at ``upto`` or beyond."""
        connection = self._require_open()
        faults.point("source.poll.before")
        with answers(self._path):
            self._require_same_file()
            gathered = self._gather(connection, max_bytes, None if upto is None else Position.parse(upto))
            if gathered is None:
                return None
            piece = self._finish(gathered)
        faults.point("source.poll.after")
        return piece

    def _gather(self, connection: sqlite3.Connection, max_bytes: int, limit: Position | None) -> _Gathered | None:
        for _ in range(SCHEMA_TRIES):
            with self._spool.gathering():
                if schema_cookie(connection) == self._cookie:
                    self._seen = _data_version(connection)
                    clock = read_clock(connection, self.instance)
                    self._require_same(clock, self._state.position)
                    return self._gather_at(connection, clock, max_bytes, limit)
            seen_whole = max(self._state.position.seq, self._state.position.upto or 0)
            self._cookie = self._follow(connection, seen_whole)
            self._captures = read_captures(connection, self._tables)
            self._state.restart |= self._unstable(self._state.position)
        raise self._restless()

    def _gather_at(
        self, connection: sqlite3.Connection, clock: Clock, max_bytes: int, limit: Position | None
    ) -> _Gathered | None:
        """Spools one piece, inside a read transaction that sees the clock: loads begun, changes, chunks, in order."""
        stands = self._state.position
        if limit is not None:
            if limit.identity != stands.identity:
                raise self._gap("the position to read up to is of another database")
            if stands.seq >= limit.seq:
                return None
        bound = min(limit.seq, clock.seq) if limit is not None else (stands.upto or clock.seq)
        event = next_event(self._captures, stands.seq, bound)
        if not (self._state.restart or self._state.empty_quarantine) and stands.seq == clock.seq and not stands.loading:
            return None
        self._spool.clear()
        gathered = _Gathered(state=replace(self._state), commit=bound, boundary=True, pending=0)
        at = stands.seq
        if event == at + 1:
            at = event
            event = next_event(self._captures, at, bound)
            gathered.state.restart |= tables_to_load(self._captures, at)
        self._begin_loads(gathered, at)
        loading = dict(gathered.state.position.loading)
        stop = bound if event is None else event - 1
        reached = self._spool_changes(gathered, at, stop, max_bytes, loading)
        if reached == clock.seq:
            self._spool_chunks(gathered, reached, max_bytes, loading)
        if event is not None:
            gathered.commit = stop
        gathered.boundary = reached == stop
        gathered.pending = clock.seq - reached
        mark = read_mark(connection, reached)
        if mark is None:
            raise self._gap("changes that follow were pruned, as another pipeline on the same source would do")
        gathered.state.position = replace(
            gathered.state.position,
            seq=reached,
            mark=mark,
            upto=None if reached == bound else bound,
            loading=loading,
            cookie=self._cookie if loading else None,
        )
        return gathered

    def _begin_loads(self, gathered: _Gathered, at: int) -> None:
        """Spools a TRUNCATE for every table to be loaded again.

        The quarantine knows only which rows it holds, not which of them a TRUNCATE of a table releases. So it is
        emptied too if it holds any, and the other tables that have rows in it are loaded again with it.
        """
        state = gathered.state
        parked = {table for table, rows in state.position.parked.items() if rows}
        if state.empty_quarantine or state.restart & parked:
            state.restart |= parked
            gathered.emptied_at = at
        current = _current(self._captures)
        latest = {capture.table: capture for capture in self._captures if capture.since <= at}
        for table in sorted(state.restart & latest.keys()):
            number = latest[table].number
            gathered.rows[number] = fill_truncate(self._spool, latest[table], at)
        alive = {table for table in state.restart if table in current and current[table].since <= at}
        loading = {table: cursor for table, cursor in state.position.loading.items() if table not in state.restart}
        state.position = replace(state.position, loading=loading | dict.fromkeys(sorted(alive), ()))
        state.restart, state.empty_quarantine = frozenset(), False

    def _spool_changes(
        self, gathered: _Gathered, after: int, stop: int, max_bytes: int, loading: Mapping[str, tuple[str, ...]]
    ) -> int:
        """Spools changes up to a number or as many as fit; returns the number reached."""
        step = self._rows_within(max_bytes)
        while after < stop and not self._full(gathered, max_bytes):
            upto = min(stop, after + step)
            for number, rows in fill_changes(self._spool, self._captures, after, upto, loading).items():
                gathered.rows[number] = gathered.rows.get(number, 0) + rows
            after = upto
        return after

    def _spool_chunks(self, gathered: _Gathered, seq: int, max_bytes: int, loading: dict[str, tuple[str, ...]]) -> None:
        """Spools the next rows of the loading tables, table by table, as many as fit."""
        current = _current(self._captures)
        for table in list(loading):
            while table in loading and not self._full(gathered, max_bytes):
                capture = current[table]
                rows, cursor = fill_chunk(self._spool, capture, loading[table], seq, limit=self._rows_within(max_bytes))
                gathered.rows[capture.number] = gathered.rows.get(capture.number, 0) + rows
                if cursor is None:
                    del loading[table]
                else:
                    loading[table] = cursor

    def _rows_within(self, max_bytes: int) -> int:
        """Rows to copy before looking at the size again: a quarter of what should fit."""
        return max(1, min(PIECE_ROWS, max_bytes // self._row_bytes) // 4)

    def _full(self, gathered: _Gathered, max_bytes: int) -> bool:
        return sum(gathered.rows.values()) >= PIECE_ROWS or self._spool.bytes() >= max_bytes

    def _finish(self, gathered: _Gathered) -> Piece:
        """Decodes what was spooled; only then does the reader stand at the new position."""
        total = sum(gathered.rows.values())
        if total >= 1000:
            self._row_bytes = max(16, self._spool.bytes() // total)
        batches: list[ChangeBatch] = []
        parked: list[Parked] = []
        captures = {capture.number: capture for capture in self._captures}
        for number, rows in sorted(gathered.rows.items()):
            if rows:
                capture = captures[number]
                part = Part(spool=self._spool, number=number, shape=capture.shape, first=1, rows=rows)
                decoded = decode(part)
                schema = capture.shape.schema(self.instance, capture.version)
                batch = batch_of(decoded, schema, gathered.commit)
                if batch is not None:
                    batches.append(batch)
                parked += parked_in(part, decoded)
        before = self._state.position.parked
        after = {} if gathered.emptied_at is not None else dict(before)
        for row in parked:
            after[row.table] = after.get(row.table, 0) + (-1 if row.op is Op.DELETE else 1)
        if parked or gathered.emptied_at is not None:
            parked.sort(key=lambda row: row.ordinal)
            batches.append(quarantine_batch(self.instance, gathered.commit, gathered.emptied_at, parked))
        position = replace(gathered.state.position, parked={table: rows for table, rows in after.items() if rows})
        gathered.state.position = position
        self._state = gathered.state
        return Piece(
            batches=tuple(batches),
            position=position.to_text(),
            boundary=gathered.boundary,
            loading=tuple(f"{self.instance}.{table}" for table in sorted(position.loading)),
            pending=gathered.pending,
            parked=sum(after.values()) - sum(before.values()),
        )

    def wait(self, timeout_s: float) -> None:
        """See ``raypipe.contracts.Source``; looks every four milliseconds, and prunes meanwhile."""
        connection = self._require_open()
        deadline = time.monotonic() + timeout_s
        while not self._may_have_news(connection) and (left := deadline - time.monotonic()) > 0:
            if not self._pruner.prune():
                time.sleep(min(LOOK_EVERY_S, left))

    def _may_have_news(self, connection: sqlite3.Connection) -> bool:
        if self._seen is None or self._state.restart or self._state.position.loading:
            return True
        with answers(self._path):
            self._require_same_file()
            try:
                return _data_version(connection) != self._seen
            except sqlite3.OperationalError:
                return False  # locked: whoever commits now will be seen when the lock is gone

    def acknowledge(self, position: str) -> None:
        """See ``raypipe.contracts.Source``."""
        self._require_open()
        faults.point("source.acknowledge.before")
        self._pruner.acknowledge(Position.parse(position).seq)
        faults.point("source.acknowledge.after")

    def progress(self) -> Mapping[str, float]:
        """See ``raypipe.contracts.Source``: the place of the cursor between the first rowid and the last."""
        connection = self._require_open()
        shares = {}
        current = _current(self._captures)
        for table, cursor in self._state.position.loading.items():
            shape = current[table].shape
            shares[f"{self.instance}.{table}"] = 0.0
            if cursor and shape.rowid:
                with answers(self._path):
                    low, high = connection.execute(
                        f"SELECT min({quoted(shape.rowid)}), max({quoted(shape.rowid)}) FROM main.{quoted(table)}"
                    ).fetchone()
                if low is not None and high > low:
                    shares[f"{self.instance}.{table}"] = min(1.0, max(0.0, (int(cursor[0]) - low) / (high - low)))
        return shares

    def close(self) -> None:
        """See ``raypipe.contracts.Source``."""
        if self._connection is not None:
            self._spool.close()
            self._connection.close()
            self._connection = None

    def _require_open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InvariantBroken(f"Source {self.instance!r} is not open.")
        return self._connection

    def _file_identity(self) -> tuple[int, int]:
        status = os.stat(self._path)
        return status.st_dev, status.st_ino

    def _require_same_file(self) -> None:
        """A file put in the place of ours would never be seen: our connection holds on to the old one."""
        try:
            same = self._file_identity() == self._file
        except OSError:
            same = False
        if not same:
            raise Unavailable(
                f"The file of source {self.instance!r} was replaced or removed while it was read.",
                remedy="It is opened again, which tells whether it is the same database.",
            )


def _current(captures: Collection[Capture]) -> dict[str, Capture]:
    return {capture.table: capture for capture in captures if capture.until is None}


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection commits."""
    return int(connection.execute("PRAGMA main.data_version").fetchone()[0])
