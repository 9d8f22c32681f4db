"""The SQLite source: connections, checks and waiting around a reader of changes."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from raypipe.contracts import Piece, SourceView
from raypipe.errors import InvariantBroken, Unavailable
from raypipe.model import TableSchema
from raypipe.sources.quarantine import QUARANTINE
from raypipe.sources.sqlite.connect import answers, connect, inspecting, path_of, quoted, reading
from raypipe.sources.sqlite.gaps import require_unbroken
from raypipe.sources.sqlite.install import install, installed, read_captures, remove, separate
from raypipe.sources.sqlite.position import Position
from raypipe.sources.sqlite.prune import Pruner
from raypipe.sources.sqlite.reader import Reader, Stand, in_line
from raypipe.sources.sqlite.schema import require_shape, require_tables
from raypipe.sources.sqlite.spool import Spool
from raypipe.sources.sqlite.stream import read_clock, read_mark
from raypipe.sources.sqlite.view import SqliteView, take_view

# How often an idle reader looks: PRAGMA data_version costs some microseconds, so this is what bounds its latency.
LOOK_EVERY_S = 0.004


@dataclass(kw_only=True)
class _Open:
    """What an open source holds.

    Attributes:
        connection: To the file.
        file: Device and inode of the file that was opened.
        spool: Attached to the connection.
        reader: Of the changes.
        pruner: Of those acknowledged.
        seen: ``PRAGMA data_version`` before the last poll if that found nothing; None if there may be more.
    """

    connection: sqlite3.Connection
    file: tuple[int, int]
    spool: Spool
    reader: Reader
    pruner: Pruner
    seen: int | None = None


class SqliteSource:
    """One SQLite database, read through the changes that its triggers record; see ``raypipe.contracts.Source``."""

    def __init__(self, instance: str, url: str, tables: Sequence[str]) -> None:
        self.instance = instance
        self._path = path_of(url)
        self._tables = tuple(sorted(set(tables)))
        self._open: _Open | None = None

    def tables(self) -> tuple[TableSchema, ...]:
        """See ``raypipe.contracts.Source``; works before the capture is installed, and writes nothing."""
        with inspecting(self._path) as connection:
            require_tables(connection, self.instance, self._tables)
            captures = {}
            if installed(connection):
                captures = {capture.table: capture for capture in read_captures(connection, self._tables)}
            schemas = []
            for table in self._tables:
                shape, version = require_shape(connection, table), 1
                if table in captures:
                    known = captures[table]
                    version = known.version + ((shape.columns, shape.key) != (known.shape.columns, known.shape.key))
                schemas.append(shape.schema(self.instance, version))
            return tuple(schemas)

    def install(self) -> None:
        """See ``raypipe.contracts.Source``: triggers and change tables."""
        install(self._path, self._tables)

    def remove(self) -> None:
        """See ``raypipe.contracts.Source``; the capture of all tables goes, whoever installed it."""
        remove(self._path)

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
                    view: SqliteView = take_view(self.instance, connection, spool, self._tables)
                yield view
            finally:
                spool.close()
        finally:
            connection.close()

    def open(self, position: str | None, reload: Collection[str] = ()) -> None:
        """See ``raypipe.contracts.Source``; installs the capture if the position is None."""
        self.close()
        stands = None if position is None else Position.parse(position)
        connection = connect(self._path)
        try:
            with answers(self._path):
                file = self._file()
                if stands is None:
                    cookie = in_line(connection, self.instance, self._tables, seen_whole=None)
                    stand = self._beginning(connection)
                else:
                    require_unbroken(connection, self.instance, stands)
                    seen_whole = max(stands.seq, stands.upto or 0)
                    cookie = in_line(connection, self.instance, self._tables, seen_whole=seen_whole)
                    stand = self._resumed(stands, reload)
                    if stand.restart or stand.empty_quarantine:
                        separate(connection)
                spool = Spool(connection)
                reader = Reader(
                    instance=self.instance,
                    connection=connection,
                    spool=spool,
                    tables=self._tables,
                    cookie=cookie,
                    stand=stand,
                )
        except BaseException:
            connection.close()
            raise
        self._open = _Open(connection=connection, file=file, spool=spool, reader=reader, pruner=Pruner(connection))

    def _beginning(self, connection: sqlite3.Connection) -> Stand:
        with reading(connection):
            clock = read_clock(connection, self.instance)
            mark = read_mark(connection, clock.seq)
        position = Position(identity=clock.identity, seq=clock.seq, mark=mark or 0, tables=self._tables)
        return Stand(position=position, restart=frozenset(self._tables), empty_quarantine=True)

    def _resumed(self, stands: Position, reload: Collection[str]) -> Stand:
        chosen = {name.removeprefix(f"{self.instance}.") for name in reload}
        parked = {table: rows for table, rows in stands.parked.items() if table in self._tables}
        return Stand(
            position=replace(
                stands,
                tables=self._tables,
                loading={table: cursor for table, cursor in stands.loading.items() if table in self._tables},
                parked=parked,
            ),
            restart=frozenset(table for table in self._tables if table in chosen or table not in stands.tables),
            empty_quarantine=QUARANTINE in chosen or parked != stands.parked,
        )

    def poll(self, max_bytes: int, upto: str | None = None) -> Piece | None:
        """See ``raypipe.contracts.Source``; None too where the reader stands at ``upto`` or beyond."""
        opened = self._require_open()
        limit = None if upto is None else Position.parse(upto)
        with answers(self._path):
            self._require_same_file(opened)
            opened.seen, seen = None, _data_version(opened.connection)
            piece = opened.reader.next_piece(max_bytes, limit)
            if piece is None:
                opened.seen = seen
            return piece

    def wait(self, timeout_s: float) -> bool:
        """See ``raypipe.contracts.Source``; looks every four milliseconds, and prunes meanwhile."""
        opened = self._require_open()
        deadline = time.monotonic() + timeout_s
        while not (news := self._may_have_news(opened)) and (left := deadline - time.monotonic()) > 0:
            if not opened.pruner.prune():
                time.sleep(min(LOOK_EVERY_S, left))
        return news

    def _may_have_news(self, opened: _Open) -> bool:
        if opened.seen is None:
            return True
        self._require_same_file(opened)
        try:
            return _data_version(opened.connection) != opened.seen
        except sqlite3.Error:
            return True  # the poll that follows tells what is wrong, or waits for the lock

    def acknowledge(self, position: str) -> None:
        """See ``raypipe.contracts.Source``; forgets little by little, and never the change at the position itself."""
        self._require_open().pruner.acknowledge(Position.parse(position).seq)

    def progress(self) -> Mapping[str, float]:
        """See ``raypipe.contracts.Source``: where the cursor stands between the first rowid and the last.

        A table WITHOUT ROWID counts as not loaded until it is.
        """
        opened = self._require_open()
        shares = {}
        for table, cursor in opened.reader.stand.position.loading.items():
            share = 0.0
            rowid = opened.reader.captures[table].shape.rowid
            if cursor and rowid:
                with answers(self._path):
                    first, last = opened.connection.execute(
                        f"SELECT (SELECT min({quoted(rowid)}) FROM main.{quoted(table)}),"
                        f" (SELECT max({quoted(rowid)}) FROM main.{quoted(table)})"
                    ).fetchone()
                if first is not None and first <= int(cursor[0]) < last:
                    share = (int(cursor[0]) - first) / (last - first)
            shares[f"{self.instance}.{table}"] = share
        return shares

    def close(self) -> None:
        """See ``raypipe.contracts.Source``."""
        if self._open is not None:
            opened, self._open = self._open, None
            opened.spool.close()
            opened.connection.close()

    def _require_open(self) -> _Open:
        if self._open is None:
            raise InvariantBroken(f"Source {self.instance!r} is not open.")
        return self._open

    def _file(self) -> tuple[int, int]:
        status = os.stat(self._path)
        return status.st_dev, status.st_ino

    def _require_same_file(self, opened: _Open) -> None:
        """A file put in the place of ours would never be seen: our connection holds on to the old one."""
        try:
            same = self._file() == opened.file
        except OSError:
            same = False
        if not same:
            raise Unavailable(
                f"The file of source {self.instance!r} was replaced or removed while it was read.",
                remedy="It is opened again, which tells whether it is the same database.",
            )


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection commits."""
    return int(connection.execute("PRAGMA main.data_version").fetchone()[0])
