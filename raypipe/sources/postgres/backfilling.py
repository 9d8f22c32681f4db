"""Reads rows again where they stand: chunk by chunk beside the stream, without emptying what holds them.

A load begins with a TRUNCATE, so a change that its chunk saw may be left out of the stream. Here the rows are there
already, and nothing may be left out: a DELETE that the chunk saw must still pass. So a chunk is *held*. It is read in a
transaction that sees everything that was read from the stream before; then a watermark is written behind that look
(``pg_logical_emit_message``), and the stream goes on whole. Until the watermark comes by, the keys that any change
names are taken out of the chunk, as the stream has newer rows of them. What is left is, at the watermark, exactly what
the source has, and goes out there: the key's image as what was, the row as what is. A view with a WHERE so loses a row
that no longer matches.

Nothing of a held chunk is in a position. A crash reads it again.

Images with nothing but the key are sound only where nobody needs more: the table has a key, and its changes name
old rows by it too (a replica identity other than FULL, under which a view may leave the key out).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import faults
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, ChangeBatch, Image, Op, TableSchema
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.connect import Session, quoted
from raypipe.sources.postgres.copying import GULP_BYTES, TOO_LARGE, Copied, copy_rows, gulp_bytes, select_part
from raypipe.sources.postgres.gathering import Gathered
from raypipe.sources.postgres.misfits import Misfits
from raypipe.sources.postgres.parking import add_fitting
from raypipe.sources.postgres.position import Backfill, Known, Position
from raypipe.sources.postgres.schema import Table, find_tables
from raypipe.sources.postgres.server_text import as_text
from raypipe.sources.postgres.snapshot import await_moment, current_moment, watermark

# Until the size of a table's rows was measured.
_ROW_BYTES = 128
_CHUNK_ROWS = 1 << 20


def can_backfill(table: Table) -> bool:
    """Whether the rows of a table can be replaced by key, whatever views are made of it."""
    return bool(table.key) and table.identity != "f"


def merged(old: Backfill | None, new: Backfill) -> Backfill:
    """One backfill that does what two would, from the start: the new one wants rows behind the cursor too."""
    if old is None:
        return new
    return Backfill(since=max(old.since, new.since), part=new.part if new.part == old.part else 0)


@dataclass(kw_only=True)
class Held:
    """A chunk that waits for the stream to pass the moment at which it was read.

    Attributes:
        path: Of its table.
        known: What the stream knew of the table, and the chunk too.
        of: The backfill that it is a chunk of.
        schema: Of its rows.
        parts: Its rows.
        after: The backfill once it is out; None if it was the last chunk.
        until: LSN of the watermark.
        touched: Keys of changes that came by meanwhile, as texts.
    """

    path: str
    known: Known
    of: Backfill
    schema: TableSchema
    parts: list[Copied]
    after: Backfill | None
    until: int
    touched: list[pa.Array] = field(default_factory=list)


class Backfiller:
    """Reads chunks of backfills, one at a time. Between pieces it may hold a chunk, about one piece of bytes.

    Args:
        instance: Name.
        address: Of the database.
        session: For watermarks.
        captured: The chosen tables.
    """

    def __init__(self, instance: str, address: Address, session: Session, captured: Captured) -> None:
        self._instance = instance
        self._address = address
        self._watermarks = session
        self._captured = captured
        self._session: Session | None = None
        self._row_bytes: dict[str, int] = {}
        self.held: Held | None = None

    def read(self, position: Position, max_bytes: int) -> Position:
        """Reads and holds the next chunk, if there is one; the caller has settled what is visible.

        Returns:
            The position, without backfills that have no rows any more.

        Raises:
            RaypipeError: the table cannot be read now.
        """
        if self.held is not None or not position.backfills:
            return position
        path = min(position.backfills)
        table = self._captured.tables.get(path)
        known = position.tables.get(path)
        if path in position.loading or known is None:
            return _without(position, path)  # a load brings every row
        if table is None:
            return position  # it is being dropped: the stream will say so
        if current_moment(self._watermarks).xmin < position.backfills[path].since:
            return position  # the stream goes on meanwhile
        if self._session is None:
            self._session = Session(self._address, "backfill")
        try:
            position = self._hold(self._session, path, table, known, position, max_bytes)
        except BaseException:
            self.close()
            raise
        if not position.backfills:
            self.close()
        return position

    def touch(self, path: str, rows: pa.RecordBatch) -> None:
        """Changes of a table came by: the stream has newer rows of their keys."""
        held = self.held
        if held is not None and held.path == path and rows.num_rows:
            if set(held.schema.key) <= set(rows.schema.names):
                held.touched.append(_identity(rows, held.schema))
            else:
                self.held = None  # its key became another one: the chunk is not of this table any more

    def drop(self, path: str) -> None:
        """Whatever is held of a table is not to go out."""
        if self.held is not None and self.held.path == path:
            self.held = None

    def give(self, position: Position, gathered: Gathered) -> Position:
        """At a boundary: what is held goes out if the stream has passed its watermark; returns the position then."""
        held = self.held
        if held is None or position.lsn < held.until:
            return position
        self.held = None
        if position.backfills.get(held.path) != held.of or position.tables.get(held.path) != held.known:
            return position  # altered meanwhile: the chunk is read again, under the new shape
        position = replace(position, loads=position.loads + 1)
        touched = pa.concat_arrays(held.touched) if held.touched else None
        for part in held.parts:
            images = _replaced(part, held.schema, touched, position)
            if images is not None:
                position = add_fitting(gathered, position, *images)
        if held.after is None:
            return _without(position, held.path)
        return replace(position, backfills={**position.backfills, held.path: held.after})

    def close(self) -> None:
        """Ends the connection; what is held stays held. Idempotent."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _hold(
        self, session: Session, path: str, table: Table, known: Known, position: Position, max_bytes: int
    ) -> Position:
        backfill = position.backfills[path]
        seen = await_moment(session, backfill.since, [table.sql])
        now = find_tables(session, self._instance, [path]).get(path)
        held = None
        # A table that was altered behind where the stream stands waits: first the stream has to get there.
        if (
            seen.xmin >= backfill.since
            and now is not None
            and known.form is not None
            and now.oid == known.form.oid
            and self._captured.print_now(now) == known.print
        ):
            source = _part_sql(session, now, backfill)
            if source is None:
                position = _without(position, path)  # the partition is gone, which is told elsewhere
            else:
                held = self._chunk(session, now, known, backfill, source, max_bytes)
        if self._session is not None:
            session.run("COMMIT")
        if held is not None:
            until = watermark(self._watermarks)
            held.until = position.lsn if faults.armed("mutant.no_watermark") else until
            self.held = held
        return position

    def _chunk(
        self,
        session: Session,
        table: Table,
        known: Known,
        backfill: Backfill,
        source: tuple[str, str],
        max_bytes: int,
    ) -> Held:
        shape = self._captured.shape(table, known.version)
        limit = max(1, min(_CHUNK_ROWS, max_bytes // self._bytes_of_row(table)))
        sql = select_part(table, shape, source, backfill.cursor, limit)
        parts, rows, size, whole = [], 0, 0, True
        copied = copy_rows(session, sql, shape, gulp_bytes(max_bytes))
        for part in copied:
            parts.append(part)
            rows += len(part.columns[0])
            size += sum(column.nbytes for column in part.columns)
            if size > max(TOO_LARGE * max_bytes, GULP_BYTES):
                whole = False  # what the server still sends is left to a closed connection
                copied.close()
                self.close()
                break
        if rows:
            self._row_bytes[table.path] = max(1, size // rows)
        after = None
        if rows >= limit or not whole:
            after = replace(backfill, cursor=_last_key(parts[-1], table, shape.schema), rows=backfill.rows + rows)
        return Held(path=table.path, known=known, of=backfill, schema=shape.schema, parts=parts, after=after, until=0)

    def _bytes_of_row(self, table: Table) -> int:
        if table.path in self._row_bytes:
            return self._row_bytes[table.path]
        if table.estimated_rows > 100 and table.bytes:
            return max(16, int(table.bytes / table.estimated_rows))
        return _ROW_BYTES


def _without(position: Position, path: str) -> Position:
    return replace(position, backfills={name: each for name, each in position.backfills.items() if name != path})


def _part_sql(session: Session, table: Table, backfill: Backfill) -> tuple[str, str] | None:
    """What to read from, as SQL, and a condition; None if the partition that was to be read is not one any more."""
    if not backfill.part:
        return table.sql, ""
    found = session.rows(
        "SELECT n.nspname::text, c.relname::text, has_table_privilege(c.oid, 'SELECT')"
        " AND has_schema_privilege(n.oid, 'USAGE')"
        f" FROM pg_partition_tree({table.oid}) t JOIN pg_class c ON c.oid = t.relid"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {backfill.part}"
    )
    if not found:
        return None
    schema, name, readable = found[0]
    if readable:
        return f"{quoted(schema)}.{quoted(name)}", ""
    # Rights on the root are enough to read it through the root, which takes longer.
    return table.sql, f"tableoid = {backfill.part}"


def _identity(rows: pa.RecordBatch, schema: TableSchema) -> pa.Array:
    """The key of each row as one text. No text of PostgreSQL holds the character 0."""
    texts = [as_text(rows.column(name)) for name in schema.key]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\0")


def _last_key(part: Copied, table: Table, schema: TableSchema) -> tuple[str, ...]:
    columns = dict(zip(schema.names, part.columns, strict=True))
    return tuple(str(as_text(columns[name].slice(len(columns[name]) - 1))[0].as_py()) for name in table.key)


def _replaced(
    part: Copied, schema: TableSchema, touched: pa.Array | None, position: Position
) -> tuple[ChangeBatch, Misfits | None] | None:
    """Two images of each row that no change has touched: its key as what was, then the row; None if there are none."""
    rows = pa.RecordBatch.from_arrays(list(part.columns), schema=schema.arrow())
    misfits = part.misfits
    if touched is not None and not faults.armed("mutant.backfill_touched"):
        left = pc.invert(pc.is_in(_identity(rows, schema), value_set=touched))
        rows = rows.filter(left)
        misfits = None if misfits is None else misfits.filter(left.to_numpy(zero_copy_only=False))
    count = rows.num_rows
    if not count:
        return None
    twice = np.repeat(np.arange(count), 2)
    second = np.arange(2 * count) % 2 == 1
    only_new = pa.array(np.where(second, twice, 0), mask=~second)
    system = {
        OP: np.where(second, np.int8(Op.UPDATE_AFTER), np.int8(Op.UPDATE_BEFORE)),
        IMAGE: np.where(second, np.int8(Image.FULL), np.int8(Image.KEY)),
        COMMIT: np.full(2 * count, position.load_commit, np.int64),
        ORDINAL: np.full(2 * count, position.load_ordinal + 1, np.int64),
    }
    arrays = [pa.array(system[name]) for name in (OP, IMAGE, COMMIT, ORDINAL)]
    arrays.append(pa.nulls(2 * count, pa.timestamp("us", tz="UTC")))
    both = pa.array(twice)
    arrays.extend(rows.column(name).take(both if name in schema.key else only_new) for name in schema.names)
    batch = ChangeBatch(schema, pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(schema)))
    return batch, None if misfits is None else misfits.take(np.where(second, twice, -1))
