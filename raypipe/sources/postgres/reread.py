"""Reads a part of a whole table again beside the stream: rows that meet a condition, or rows that were named by key.

A row goes out as an update that replaces whatever was held under its key, so that it also leaves the views that it is
no longer a row of; a key that was named and has no row goes out as a delete. Nothing else of the table is touched.

The table stays whole meanwhile: every change of the stream follows, also those that a look has seen already. They
come by again before the stream reaches the watermark written after the look, there is no boundary before that, and the
last change of a key decides. What must not be is a change that streamed by *before* and that the look does not see, as
nothing would correct it: as for loads, every look waits for the transactions that were read (see ``snapshot``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.contracts import ReadAgain
from raypipe.errors import SchemaMismatch, Unavailable
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Image, Op, TableSchema
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.condition import as_sql
from raypipe.sources.postgres.connect import Session, literal, quoted
from raypipe.sources.postgres.copying import Copied, copy_rows, select_rows
from raypipe.sources.postgres.decode import Shape
from raypipe.sources.postgres.evolution import Evolution
from raypipe.sources.postgres.gathering import Gathered
from raypipe.sources.postgres.keys import array_of, order_of, row_of
from raypipe.sources.postgres.misfits import Misfits
from raypipe.sources.postgres.parking import add_fitting
from raypipe.sources.postgres.position import Position, Reread
from raypipe.sources.postgres.schema import Table
from raypipe.sources.postgres.server_text import as_text
from raypipe.sources.postgres.snapshot import await_moment, current_moment, watermark

logger = logging.getLogger(__name__)

# The first look at a table goes over so many rows; how large they are is known after it.
FIRST_ROWS = 2_000
# Later ones over more, as long as these fit into a piece: a condition that chooses few rows is a matter of looking.
MOST_ROWS = 200_000
GROWTH = 8
GULP_BYTES = 4 << 20
# A condition may be slow, as one with a query of its own for each row is; the stream stands still for it.
LOOK_TIMEOUT = "4min"


class Rereader:
    """Does what ``ReadAgain`` asks for; remembers nothing that position and wishes do not say.

    Args:
        address: Of the database.
        session: For watermarks.
        captured: The chosen tables.
        evolution: Told when a look finds the catalog changed.
    """

    def __init__(self, address: Address, session: Session, captured: Captured, evolution: Evolution) -> None:
        self._address = address
        self._watermarks = session
        self._captured = captured
        self._evolution = evolution
        self._session: Session | None = None
        self._wishes: dict[str, ReadAgain] = {}
        self._since: int | None = None
        self._look_rows: dict[str, int] = {}
        self.answered: list[str] = []

    def ask(self, wish: ReadAgain) -> None:
        """Takes a wish, in the order of the ids."""
        if wish.id not in self._wishes:
            self._wishes = dict(sorted({**self._wishes, wish.id: wish}.items()))
            self._since = None

    def busy(self, position: Position) -> bool:
        """Something is wanted, or being done."""
        return bool(self._wishes or position.rereads)

    def read(self, position: Position, gathered: Gathered, max_bytes: int) -> Position:
        """Gathers the next rows of every table that something is wanted of; returns the position after them."""
        position = self._begin(position)
        unfinished = {path: each for path, each in position.rereads.items() if not each.last}
        keyed = {} if unfinished else self._keyed(position)
        if unfinished or keyed:
            position = self._look(position, unfinished, keyed, gathered, max_bytes)
        if not self.busy(position):
            self.close()
        return position

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _begin(self, position: Position) -> Position:
        """Takes the conditions among the wishes into the position, one for each table at a time."""
        if self._wishes and self._since is None:
            self._since = current_moment(self._watermarks).xmax
        rereads = dict(position.rereads)
        for wish in list(self._wishes.values()):
            path = self._path(wish)
            table = self._captured.tables.get(path)
            taken = path in rereads and rereads[path].id == wish.id
            if taken or table is None or not table.key or path in position.loading:
                self._answer(wish)  # a load reads all rows anyway
            elif wish.where and path not in rereads:
                rereads[path] = Reread(id=wish.id, where=wish.where, since=self._since or 0)
                self._answer(wish)
        return replace(position, rereads=rereads)

    def _keyed(self, position: Position) -> dict[str, ReadAgain]:
        """The next wish of each idle table, if it names keys."""
        keyed: dict[str, ReadAgain] = {}
        for wish in self._wishes.values():
            path = self._path(wish)
            if path not in position.rereads:
                keyed.setdefault(path, wish)
        return keyed

    def _answer(self, wish: ReadAgain) -> None:
        self._wishes.pop(wish.id)
        self.answered.append(wish.id)

    def _path(self, wish: ReadAgain) -> str:
        name = wish.table.partition(".")[2]
        return next((path for path in self._captured.paths if path.partition(".")[2] == name), "")

    def _look(
        self,
        position: Position,
        unfinished: Mapping[str, Reread],
        keyed: Mapping[str, ReadAgain],
        gathered: Gathered,
        max_bytes: int,
    ) -> Position:
        """Looks at the database once; the stream has caught up with it where it passes the watermark."""
        since = max([*(each.since for each in unfinished.values()), self._since or 0])
        rereads = dict(position.rereads)
        looked: list[str] = []
        there = [self._captured.tables[path] for path in (*unfinished, *keyed) if path in self._captured.tables]
        if not there:
            return position  # dropped: the reader is about to hear of it
        with self._moment(since, there) as session:
            if session is None:
                return position
            for path in (*unfinished, *keyed):
                table = self._captured.tables.get(path)
                if self._session is None or table is None or (looked and gathered.bytes >= max_bytes):
                    continue
                known = position.tables.get(path)
                if known is None or not self._evolution.stands(table, known):
                    continue  # altered behind where the stream stands: first it has to get there
                shape = self._captured.shape(table, known.version)
                if path in keyed:
                    wish = keyed[path]
                    read, position = self._named(session, table, shape, wish, position, gathered)
                    rereads[path] = Reread(id=wish.id, rows=len(wish.keys), last=True, sure=read and wish.last)
                    self._answer(wish)
                else:
                    rereads[path], position = self._chosen(
                        session, table, shape, rereads[path], position, gathered, max_bytes
                    )
                looked.append(path)
        if not looked:
            return position
        until = watermark(self._watermarks)
        rereads |= {path: replace(rereads[path], until=until) for path in looked}
        return replace(position, rereads=rereads)

    @contextmanager
    def _moment(self, since: int, tables: list[Table]) -> Iterator[Session | None]:
        """A read transaction in which every transaction below ``since`` has ended; None if they go on running."""
        if self._session is None:
            self._session = Session(self._address, "read again")
        session = self._session
        try:
            moment = await_moment(session, since, [table.sql for table in tables])
            if moment.xmin < since:
                session.run("ROLLBACK")
                yield None
                return
            session.run(f"SET LOCAL statement_timeout = '{LOOK_TIMEOUT}'")
            self._captured.look_with(session)
            yield session
            if self._session is not None:
                session.run("COMMIT")
        except BaseException:
            self.close()
            raise

    def _named(
        self,
        session: Session,
        table: Table,
        shape: Shape,
        wish: ReadAgain,
        position: Position,
        gathered: Gathered,
    ) -> tuple[bool, Position]:
        """Rows by key, and deletes of keys without a row; whether these still are keys of the table."""
        if not wish.keys:
            return True, position
        if any(len(key) != len(table.key) for key in wish.keys):
            return self._give_up(shape, "another key"), position
        names = [f"k{place}" for place in range(len(table.key))]
        types = {field.name: field.type_sql for field in table.fields}
        arrays = ", ".join(
            f"{literal(array_of(pa.array(texts, pa.string())))}::text[]" for texts in zip(*wish.keys, strict=True)
        )
        cast = ", ".join(f"{name}::{types[key]} AS {name}" for name, key in zip(names, table.key, strict=True))
        given = f"(SELECT DISTINCT {cast} FROM unnest({arrays}) AS a({', '.join(names)})) AS g"
        same = " AND ".join(f"t.{quoted(key)} = g.{name}" for name, key in zip(names, table.key, strict=True))
        place_of = dict(zip(table.key, names, strict=True))
        there, gone = [], []
        for kind, name in zip(shape.kinds, shape.schema.names, strict=True):
            there.append(kind.copy_sql.format(f"t.{quoted(name)}"))
            value = f"g.{place_of[name]}" if name in place_of else f"NULL::{types[name]}"
            gone.append(kind.copy_sql.format(value))
        exists = f"EXISTS (SELECT 1 FROM {table.sql} AS t WHERE {same})"
        ordinal = position.load_ordinal + 1
        for sql, rows_of in (
            (f"SELECT {', '.join(gone)} FROM {given} WHERE NOT {exists}", _deletes),
            (f"SELECT {', '.join(there)} FROM {given} JOIN {table.sql} AS t ON {same}", _updates),
        ):
            try:
                for part in copy_rows(session, sql, shape):
                    batch, misfits = rows_of(shape.schema, part, position.load_commit, ordinal)
                    ordinal += len(part.columns[0])
                    position = add_fitting(gathered, position, batch, misfits)
            except SchemaMismatch as error:
                if not str(error.fields.get("sqlstate", "")).startswith("22"):
                    raise
                return self._give_up(shape, str(error.fields["sqlstate"])), position
        return True, position

    def _give_up(self, shape: Shape, why: str) -> bool:
        """Leaves a wish that can never be fulfilled, as the table has changed or the condition fails on a row."""
        logger.warning("a part of a table cannot be read again", extra={"table": str(shape.schema.table), "why": why})
        self.close()
        return False

    def _chosen(
        self,
        session: Session,
        table: Table,
        shape: Shape,
        reread: Reread,
        position: Position,
        gathered: Gathered,
        max_bytes: int,
    ) -> tuple[Reread, Position]:
        """The rows of the next window of keys that meet the condition; ends early if that cannot be said any more."""
        room = max(max_bytes - gathered.bytes, 1)
        limit = self._look_rows.get(table.path, FIRST_ROWS)
        order = order_of(table)
        beyond = f"({order}) > ({row_of(table, reread.cursor)})" if reread.cursor else "TRUE"
        texts = ", ".join(f"format('%s', {quoted(name)})" for name in table.key)
        high = session.rows(
            f"SELECT {texts} FROM {table.sql} WHERE {beyond} ORDER BY {order} OFFSET {limit - 1} LIMIT 1"
        )
        upto = f"({order}) <= ({row_of(table, high[0])})" if high else "TRUE"
        chosen = f"{select_rows(table, shape)} WHERE {beyond} AND {upto} AND {as_sql(reread.where)} ORDER BY {order}"
        before, rows, last, whole = gathered.bytes, 0, list(reread.cursor), True
        try:
            copied = copy_rows(session, chosen, shape, max(64 << 10, min(GULP_BYTES, room)))
            for part in copied:
                batch, misfits = _updates(shape.schema, part, position.load_commit, position.load_ordinal + 1 + rows)
                position = add_fitting(gathered, position, batch, misfits)
                rows += len(part.columns[0])
                last = _last_key(part, table, shape.schema)
                if gathered.bytes - before > max(2 * room, GULP_BYTES):
                    whole = False  # what the server still sends is left to a closed connection
                    copied.close()
                    self.close()
                    break
        except (SchemaMismatch, Unavailable) as error:
            if isinstance(error, Unavailable) and error.fields.get("sqlstate") != "57014":
                raise
            self._give_up(shape, str(error.fields.get("sqlstate")))
            return replace(reread, last=True), position
        self._grow(table.path, limit, rows, gathered.bytes - before, room)
        if whole:
            last = [str(text) for text in high[0]] if high else last
        looked = limit if whole and high else rows
        done = whole and not high
        return replace(reread, cursor=tuple(last), rows=reread.rows + looked, last=done), position

    def _grow(self, path: str, limit: int, rows: int, size: int, room: int) -> None:
        """Sets the next window by how large the rows were that this one gave."""
        fits = int(room / (size / rows)) if rows else MOST_ROWS
        self._look_rows[path] = max(1, min(limit * GROWTH, fits, MOST_ROWS))


def _last_key(part: Copied, table: Table, schema: TableSchema) -> list[str]:
    columns = dict(zip(schema.names, part.columns, strict=True))
    return [str(as_text(columns[name].slice(len(columns[name]) - 1))[0].as_py()) for name in table.key]


def _updates(schema: TableSchema, part: Copied, commit: int, ordinal: int) -> tuple[ChangeBatch, Misfits | None]:
    """Each row as an update of whatever has its key: the key goes, the row comes."""
    count = len(part.columns[0])
    twice = pa.array(np.repeat(np.arange(count), 2))
    afters = pa.array(np.repeat(np.arange(count), 2), mask=np.tile([True, False], count))
    columns = [
        column.take(twice if name in schema.key else afters)
        for name, column in zip(schema.names, part.columns, strict=True)
    ]
    ops = np.tile(np.array([Op.UPDATE_BEFORE, Op.UPDATE_AFTER], np.int8), count)
    images = np.tile(np.array([Image.KEY, Image.FULL], np.int8), count)
    misfits = (
        None
        if part.misfits is None
        else part.misfits.take(np.stack([np.full(count, -1), np.arange(count)], axis=1).ravel())
    )
    return _batch(schema, ops, images, commit, np.repeat(ordinal + np.arange(count), 2), columns), misfits


def _deletes(schema: TableSchema, part: Copied, commit: int, ordinal: int) -> tuple[ChangeBatch, Misfits | None]:
    """Keys that have no row."""
    count = len(part.columns[0])
    ops, images = np.full(count, Op.DELETE, np.int8), np.full(count, Image.KEY, np.int8)
    return _batch(schema, ops, images, commit, ordinal + np.arange(count), list(part.columns)), part.misfits


def _batch(
    schema: TableSchema,
    ops: npt.NDArray[np.int8],
    images: npt.NDArray[np.int8],
    commit: int,
    ordinals: npt.NDArray[np.int64],
    columns: list[pa.Array],
) -> ChangeBatch:
    arrow = ChangeBatch.arrow_schema(schema)
    system = {
        OP: pa.array(ops),
        IMAGE: pa.array(images),
        COMMIT: pa.array(np.full(len(ops), commit, np.int64)),
        ORDINAL: pa.array(ordinals.astype(np.int64)),
        TIME: pa.nulls(len(ops), pa.timestamp("us", tz="UTC")),
    }
    return ChangeBatch(schema, pa.RecordBatch.from_arrays([*system.values(), *columns], schema=arrow))


def over(rereads: Mapping[str, Reread], lsn: int) -> tuple[dict[str, Reread], frozenset[str]]:
    """The rereads that go on once the stream has reached an LSN, and the tables that are sure again by it."""
    ended = {path: each for path, each in rereads.items() if each.last and lsn >= each.until}
    left = {path: each for path, each in rereads.items() if path not in ended}
    return left, frozenset(path for path, each in ended.items() if each.sure)
