"""A private scratch database, through which rows leave the source for Arrow.

One SQL statement copies a bounded chunk into a temporary file attached to the source's connection; the read
transaction on the source ends; then the ADBC driver, which is four times as fast as ``sqlite3`` at it, reads the file
as Arrow. The driver never touches the source itself (see ``connect``), the source is held only as long as the copying
takes, and a second query over the same rows tells apart what the driver's type inference blurs.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import adbc_driver_sqlite.dbapi as adbc
import pyarrow as pa

from raypipe.errors import Unavailable
from raypipe.sources.sqlite.connect import reading

_ATTACHED = "_raypipe_spool"


class Text(bytes):
    """Text as its bytes: SQLite stores any, not only valid UTF-8."""


class Spool:
    """Tables ``t0``, ``t1`` … of untyped columns, filled in a read transaction of the source and read after it."""

    def __init__(self, source: sqlite3.Connection) -> None:
        self._source = source
        self._folder = tempfile.mkdtemp(prefix="raypipe-spool-")
        self._widths: dict[int, int] = {}
        self._reader: adbc.Connection | None = None
        try:
            source.execute(f"ATTACH ? AS {_ATTACHED}", (str(self._file),))
            source.execute(f"PRAGMA {_ATTACHED}.journal_mode=MEMORY")  # undoing a failed copy needs no disk
            source.execute(f"PRAGMA {_ATTACHED}.synchronous=OFF")  # nothing here outlives the process
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @property
    def _file(self) -> Path:
        return Path(self._folder) / "spool.db"

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """One read transaction of the source, inside which the spool may be cleared and filled."""
        widths = dict(self._widths)
        try:
            with reading(self._source):
                yield
        except BaseException:
            self._widths = widths  # tables made inside are gone with the transaction
            raise

    def clear(self) -> None:
        """Forgets all rows."""
        for number in self._widths:
            self._source.execute(f"DELETE FROM {_ATTACHED}.t{number}")

    def fill(self, number: int, width: int, select: str, parameters: Sequence[object] = ()) -> int:
        """Appends the rows of a query of ``width`` columns to a table, made if need be; returns how many."""
        if self._widths.get(number) != width:
            columns = ", ".join(f"s{place}" for place in range(width))
            self._source.execute(f"DROP TABLE IF EXISTS {_ATTACHED}.t{number}")
            self._source.execute(f"CREATE TABLE {_ATTACHED}.t{number}({columns})")
            self._widths[number] = width
        return self._source.execute(f"INSERT INTO {_ATTACHED}.t{number} {select}", parameters).rowcount

    def bytes(self) -> int:
        """Size of what it holds, roughly."""
        used, free, page = (
            self._source.execute(f"PRAGMA {_ATTACHED}.{name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((used - free) * page)

    def find(self, number: int, what: str, rest: str) -> tuple[object, ...] | None:
        """First row of a query over a table, None if it has none."""
        found: tuple[object, ...] | None = self._source.execute(
            f"SELECT {what} FROM {_ATTACHED}.t{number} {rest} LIMIT 1"
        ).fetchone()
        return found

    def exact(self, number: int, rows: Sequence[int]) -> Iterator[tuple[object, ...]]:
        """Rows by number as ``sqlite3`` gives them, every byte of them: for the few that need it. Text is ``Text``."""
        self._source.text_factory = Text
        try:
            for begin in range(0, len(rows), 500):
                chosen = ", ".join(map(str, rows[begin : begin + 500]))
                yield from self._source.execute(
                    f"SELECT * FROM {_ATTACHED}.t{number} WHERE rowid IN ({chosen}) ORDER BY rowid"
                )
        finally:
            self._source.text_factory = str

    def read(self, number: int, expressions: Sequence[str], first: int, rows: int) -> pa.RecordBatch:
        """Reads rows of a table as Arrow, in the order they were filled in; columns are named ``0``, ``1`` ….

        Args:
            number: Of the table.
            expressions: SQL over its columns ``s0``, ``s1`` ….
            first: Number of the first row, from 1.
            rows: How many. The driver infers a column's type from all of them.
        """
        columns = ", ".join(f'{expression} AS "{place}"' for place, expression in enumerate(expressions))
        try:
            if self._reader is None:
                self._reader = adbc.connect(str(self._file), autocommit=True)
            with self._reader.cursor() as cursor:
                # The driver infers types from its first batch alone, so there must be one batch only.
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(rows + 1)})
                cursor.execute(
                    f"SELECT {columns} FROM t{number} WHERE rowid BETWEEN {first} AND {first + rows - 1} ORDER BY rowid"
                )
                return cursor.fetch_arrow_table().combine_chunks().to_batches()[0]
        except adbc.Error as error:
            raise Unavailable(
                f"The temporary file {self._file} could not be read.",
                remedy="Check the space in the temporary directory (TMPDIR).",
                cause=error,
            ) from error

    def close(self) -> None:
        """Removes the file; the source's connection stays usable."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if not self._source.in_transaction:
            self._source.execute(f"DETACH {_ATTACHED}")
        shutil.rmtree(self._folder, ignore_errors=True)
