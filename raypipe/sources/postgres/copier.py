"""Copies chunks of loading tables for a reader, on a connection of its own that is open only while tables load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from raypipe.model import TableSchema
from raypipe.sources.postgres import parallel
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.captured import Captured, read_batch
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.copying import (
    Copied,
    copy_rows,
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
# Tables of this size are worth a connection of their own.
LARGE_BYTES = 1 << 20
# Rows of one chunk at most: what may have to be copied again after a crash.
CHUNK_ROWS = 1 << 20


@dataclass(kw_only=True)
class _Whole:
    """A table without a key while it is copied: in one transaction, over many pieces."""

    path: str
    schema: TableSchema
    parts: Iterator[Copied]
    seen: Moment


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """The next chunk of a table with a key."""

    path: str
    table: Table
    load: Load
    shape: Shape


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
        self._connections = parallel.Connections(address)
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
        """Ends the connections; idempotent."""
        self._connections.close()
        self._whole = None

    def _begin(self, position: Position, evolution: Evolution, gathered: Gathered, max_bytes: int) -> Position:
        """Looks at the database once, and copies a chunk of every table that has room in the piece."""
        waiting = {path: load for path, load in position.loading.items() if path in self._captured.tables}
        if not waiting:
            return position
        session = self._connections.first
        since = max(load.since for load in waiting.values())
        seen = await_moment(session, since, [self._captured.tables[path].sql for path in waiting])
        copied: dict[str, Load] = {}
        tables = dict(position.tables)
        try:
            self._captured.look_with(session)
            chunks: list[_Chunk] = []
            for path in sorted(waiting, key=self._keyless_last):
                load, table = waiting[path], self._captured.tables.get(path)
                if table is None or load.since > seen.xmin:
                    continue
                known = tables.get(path)
                if evolution.replaced(table, known) or (load.rows and evolution.outdated(table, known)):
                    # What was copied before is not what it would be now, or the table is one that may not be published:
                    # the load begins again.
                    position = replace(position, due={**position.due, path: seen.xmax})
                    continue
                if not table.key and (chunks or copied):
                    continue
                tables[path] = evolution.known_as(path, table, known)
                shape = self._captured.shape(table, tables[path].version)
                if not table.key:
                    parts = copy_rows(session, select_rows(table, shape), shape)
                    self._whole = _Whole(path=path, schema=shape.schema, parts=parts, seen=seen)
                    return replace(position, tables=tables)
                chunks.append(_Chunk(path=path, table=table, load=load, shape=shape))
            while chunks and self._connections.open and not (copied and gathered.bytes >= max_bytes):
                group, chunks = self._side_by_side(chunks)
                loads, position = self._chunks(group, position, gathered, max_bytes, seen)
                copied.update(loads)
        except BaseException:
            self.close()
            raise
        if self._connections.open:
            self._connections.end()
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

    def _side_by_side(self, chunks: list[_Chunk]) -> tuple[list[_Chunk], list[_Chunk]]:
        """Those to copy next, and the rest: as many large tables as there may be connections, or one small table."""
        large = [chunk for chunk in chunks if chunk.table.bytes >= LARGE_BYTES][: self._address.copy_connections]
        group = large or chunks[:1]
        return group, [chunk for chunk in chunks if chunk not in group]

    def _chunks(
        self, group: Sequence[_Chunk], position: Position, gathered: Gathered, max_bytes: int, seen: Moment
    ) -> tuple[dict[str, Load], Position]:
        """Copies a chunk of each table of a group; returns how far their loads are then."""
        room = max((max_bytes - gathered.bytes) // len(group), 1)
        limits = [max(1, min(CHUNK_ROWS, room // self._bytes_of_row(each.table))) for each in group]
        selects = [
            select_chunk(each.table, each.shape, each.load.cursor, limit)
            for each, limit in zip(group, limits, strict=True)
        ]
        wanted = [
            parallel.Chunk(sql=sql, shape=each.shape, room=room) for each, sql in zip(group, selects, strict=True)
        ]
        loads: dict[str, Load] = {}
        for each, limit, read in zip(group, limits, self._connections.copy(wanted), strict=True):
            load, rows, before = each.load, 0, gathered.bytes
            last: Sequence[str] = load.cursor
            for part in read.parts:
                position = self._gather(part, each.shape.schema, position, gathered)
                rows += len(part.columns[0])
                last = self._last_key(part, each.table, each.shape.schema)
            if rows:
                self._row_bytes[each.path] = max(1, (gathered.bytes - before) // rows)
            chunk = Chunk(low=load.cursor, seen=seen, until=0, last=read.whole and rows < limit)
            loads[each.path] = Load(cursor=tuple(last), rows=load.rows + rows, since=load.since, chunk=chunk)
        return loads, position

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
            if self._connections.open:
                self._connections.end()
        except BaseException:
            self.close()
            raise
        self._whole = None
        chunk = Chunk(low=(), seen=whole.seen, until=watermark(self._watermarks), last=True)
        return replace(position, loading={**position.loading, whole.path: replace(load, chunk=chunk)})
