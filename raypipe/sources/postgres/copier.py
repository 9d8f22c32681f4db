"""Copies chunks of loading tables for a reader, on a connection of its own that is open only while tables load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from raypipe.model import TableSchema
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.captured import Captured, read_batch
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.copying import (
    GULP_BYTES,
    TOO_LARGE,
    Copied,
    copy_rows,
    gulp_bytes,
    select_chunk,
    select_rows,
)
from raypipe.sources.postgres.decode import Shape
from raypipe.sources.postgres.evolution import Evolution
from raypipe.sources.postgres.gathering import Gathered
from raypipe.sources.postgres.parking import add_fitting
from raypipe.sources.postgres.position import Chunk, Load, Moment, Position
from raypipe.sources.postgres.schema import Table
from raypipe.sources.postgres.server_text import as_text
from raypipe.sources.postgres.snapshot import await_moment, watermark

# A guess at a row's size until the statistics tell or some were measured. A chunk that turns out too large is cut off.
ROW_BYTES = 128
# Rows of one chunk at most: what may have to be copied again after a crash.
CHUNK_ROWS = 1 << 20


@dataclass(kw_only=True)
class _Whole:
    """A table without a key while it is copied: in one transaction, over many pieces."""

    path: str
    schema: TableSchema
    parts: Iterator[Copied]
    seen: Moment


class Copier:
    """Reads chunks; remembers nothing that a position does not say, but for a table without a key in mid-copy.

    Args:
        address: Of the database.
        session: For watermarks.
        captured: The chosen tables.
    """

    def __init__(self, address: Address, session: Session, captured: Captured) -> None:
        self._address = address
        self._watermarks = session
        self._captured = captured
        self._session: Session | None = None
        self._whole: _Whole | None = None
        self._row_bytes: dict[str, int] = {}

    @property
    def busy(self) -> bool:
        """In the middle of a table without a key: the stream must stand still until it is copied."""
        return self._whole is not None

    def copy(self, position: Position, evolution: Evolution, gathered: Gathered, max_bytes: int) -> Position:
        """Gathers the next rows of loading tables, as many as fit; returns the position after them.

        Raises:
            SchemaMismatch: a table was altered in between, or holds a value that does not fit.
        """
        if self._whole is None:
            position = self._begin(position, evolution, gathered, max_bytes)
        if self._whole is not None:
            position = self._continue(self._whole, position, gathered, max_bytes)
        if not position.loading or all(load.chunk is not None for load in position.loading.values()):
            self.close()
        return position

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._session is not None:
            self._session.close()
        self._session = self._whole = None

    def _begin(self, position: Position, evolution: Evolution, gathered: Gathered, max_bytes: int) -> Position:
        """Looks at the database once, and copies a chunk of every table that has room in the piece."""
        waiting = {path: load for path, load in position.loading.items() if path in self._captured.tables}
        if not waiting:
            return position
        if self._session is None:
            self._session = Session(self._address, "copy")
        session = self._session
        since = max(load.since for load in waiting.values())
        seen = await_moment(session, since, [self._captured.tables[path].sql for path in waiting])
        copied: dict[str, Load] = {}
        tables = dict(position.tables)
        try:
            self._captured.look_with(session)
            for path in sorted(waiting, key=self._keyless_last):
                load, table = waiting[path], self._captured.tables.get(path)
                if (
                    self._session is None
                    or table is None
                    or load.since > seen.xmin
                    or (copied and gathered.bytes >= max_bytes)
                ):
                    continue
                if load.rows and evolution.outdated(table, tables.get(path)):
                    # What was copied before is not what it would be now: the load begins again.
                    position = replace(position, due={**position.due, path: seen.xmax})
                    continue
                tables[path] = evolution.known_as(path, table, tables.get(path))
                shape = self._captured.shape(table, tables[path].version)
                if table.key:
                    room = max(max_bytes - gathered.bytes, 1)
                    copied[path], position = self._chunk(session, table, load, position, shape, gathered, room, seen)
                elif not copied:
                    parts = copy_rows(session, select_rows(table, shape), shape)
                    self._whole = _Whole(path=path, schema=shape.schema, parts=parts, seen=seen)
                    return replace(position, tables=tables)
        except BaseException:
            self.close()
            raise
        if self._session is not None:
            session.run("COMMIT")
        if copied:
            until = watermark(self._watermarks)
            copied = {
                path: replace(load, chunk=replace(load.chunk, until=until))
                for path, load in copied.items()
                if load.chunk is not None
            }
        return replace(position, tables=tables, loading={**position.loading, **copied})

    def _keyless_last(self, path: str) -> tuple[bool, str]:
        return not self._captured.tables[path].key, path

    def _chunk(
        self,
        session: Session,
        table: Table,
        load: Load,
        position: Position,
        shape: Shape,
        gathered: Gathered,
        room: int,
        seen: Moment,
    ) -> tuple[Load, Position]:
        limit = max(1, min(CHUNK_ROWS, room // self._bytes_of_row(table)))
        rows, whole = 0, True
        before = gathered.bytes
        last: list[str] = list(load.cursor)
        for part in copy_rows(session, select_chunk(table, shape, load.cursor, limit), shape, gulp_bytes(room)):
            position = self._gather(part, shape.schema, position, gathered)
            last = self._last_key(part, table, shape.schema)
            rows += len(part.columns[0])
            if gathered.bytes - before > max(TOO_LARGE * room, GULP_BYTES):
                whole = False  # what the server still sends is left to a closed connection
                self.close()
                break
        if rows:
            self._row_bytes[table.path] = max(1, (gathered.bytes - before) // rows)
        chunk = Chunk(low=load.cursor, seen=seen, until=0, last=whole and rows < limit)
        return Load(cursor=tuple(last), rows=load.rows + rows, since=load.since, chunk=chunk), position

    def _gather(self, part: Copied, schema: TableSchema, position: Position, gathered: Gathered) -> Position:
        """Adds rows to the piece."""
        batch = read_batch(schema, part.columns, position.load_commit, position.load_ordinal + 1)
        return add_fitting(gathered, position, batch, part.misfits)

    def _last_key(self, part: Copied, table: Table, schema: TableSchema) -> list[str]:
        columns = dict(zip(schema.names, part.columns, strict=True))
        return [str(as_text(columns[name].slice(len(columns[name]) - 1))[0].as_py()) for name in table.key]

    def _bytes_of_row(self, table: Table) -> int:
        if table.path in self._row_bytes:
            return self._row_bytes[table.path]
        if table.estimated_rows > 100 and table.bytes:
            return max(16, int(table.bytes / table.estimated_rows))
        return ROW_BYTES

    def _continue(self, whole: _Whole, position: Position, gathered: Gathered, max_bytes: int) -> Position:
        """Gathers the next rows of the table without a key."""
        load = position.loading[whole.path]
        try:
            for part in whole.parts:
                position = self._gather(part, whole.schema, position, gathered)
                load = replace(load, rows=load.rows + len(part.columns[0]))
                if gathered.bytes >= max_bytes:
                    return replace(position, loading={**position.loading, whole.path: load})
            if self._session is not None:
                self._session.run("COMMIT")
        except BaseException:
            self.close()
            raise
        self._whole = None
        chunk = Chunk(low=(), seen=whole.seen, until=watermark(self._watermarks), last=True)
        return replace(position, loading={**position.loading, whole.path: replace(load, chunk=chunk)})
