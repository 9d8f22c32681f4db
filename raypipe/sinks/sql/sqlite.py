"""SQLite behind ``Dialect``: how values are kept, found, widened and read back.

The driver brings its own copy of SQLite. Two copies in one process must not have one file open at the same time:
closing a file in one drops the locks of the other (https://www.sqlite.org/howtocorrupt.html, section 2.2.1). So all
access to a sink's file in this process goes through the driver, never through Python's ``sqlite3``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import adbc_driver_sqlite.dbapi as driver
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from adbc_driver_manager import Error
from sqlalchemy.dialects import sqlite

from raypipe.codec import decimal_text
from raypipe.disks import Hindrance, hindrance
from raypipe.errors import Corrupt, InvariantBroken, RaypipeError, SchemaMismatch, Unavailable
from raypipe.sinks.nested import is_nested
from raypipe.sinks.sql.nested_text import nested_text, nested_values
from raypipe.sinks.sql.rebuild import rebuilding
from raypipe.sinks.text import moment_text, moments
from raypipe.sinks.types import arrow_of_sqlite, sqlite_type

LOCK_WAIT_MS = 5_000  # other writers of a database finish within that, or the run tells of it and tries again
_CACHE_KIB = 65_536  # pages of an epoch kept in memory; what is above goes to the WAL early
_READ_ROWS = 65_536


class SqliteDialect:
    """See ``Dialect``.

    Args:
        path: Of the database file.
        lock_wait_ms: How long to wait for another writer.
    """

    def __init__(self, path: str, lock_wait_ms: int = LOCK_WAIT_MS) -> None:
        self.name = f"SQLite database {path}"
        self.begin = "BEGIN IMMEDIATE"
        self.reserved = frozenset({"_rowid_"})  # a column of that name would hide the row ids
        self.quoting: sa.Dialect = sqlite.dialect(paramstyle="qmark")
        self._path = path
        self._lock_wait_ms = lock_wait_ms

    def exists(self) -> bool:
        """Whether the file is there."""
        return os.path.exists(self._path)

    def connect(self) -> Any:
        """Opens or makes the file; a new one gets a WAL, so that readers and the sink do not wait for each other."""
        with self._opened(self._path) as connection, connection.cursor() as cursor:
            cursor.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            cursor.execute("PRAGMA legacy_alter_table = ON")  # else a view keeps a table from being renamed to its name
            cursor.execute("SELECT count(*) FROM sqlite_schema")
            if cursor.fetchone() == (0,):
                cursor.execute("PRAGMA journal_mode = WAL")
                cursor.fetchall()
        return connection

    def connect_to_read(self) -> Any:
        """Opens the file without the right to write."""
        with self._opened(f"file:{quote(self._path)}?mode=ro") as connection:
            return connection

    @contextmanager
    def _opened(self, address: str) -> Iterator[Any]:
        """A connection that stays open unless making it ready fails."""
        connection = driver.connect(address, autocommit=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {self._lock_wait_ms}")
            yield connection
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns the driver's errors into ours."""
        try:
            yield
        except Error as error:
            raise _translation(error, self.name, self._path) from error

    def declared(self, stored: pa.DataType) -> str:
        """From the table of types."""
        return sqlite_type(stored)

    def columns(self, cursor: Any, table: str) -> list[tuple[str, pa.DataType | None]]:
        """From the declared types."""
        cursor.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
        return [(name, arrow_of_sqlite(declared)) for name, declared in cursor.fetchall()]

    def encode(self, table: str, rows: pa.Table) -> pa.Table:
        """Decimals, dates and times as text, lists and structs as JSON; the driver binds everything else as it is."""
        return pa.table({name: _encoded(rows[name], table, name) for name in rows.column_names})

    def read(self, cursor: Any, table: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The driver takes a column's type from its first rows, so a row made of samples goes first and is dropped."""
        quoted = self.quoting.identifier_preparer.quote_identifier
        samples = ", ".join(_sample(field.type) for field in columns)
        names = ", ".join(quoted(name) for name in columns.names)
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_READ_ROWS)})
        cursor.execute(f"SELECT {samples} UNION ALL SELECT {names} FROM {quoted(table)}")
        sample_rows = 1
        for batch in cursor.fetch_record_batch():
            rows = batch.slice(sample_rows)
            sample_rows = 0
            decoded = [_decoded(column, field.type) for column, field in zip(rows.columns, columns, strict=True)]
            yield pa.RecordBatch.from_arrays(decoded, schema=columns)

    def widen(self, table: sa.Table, before: pa.Schema, after: pa.Schema, cursor: Any) -> Sequence[str]:
        """Adds columns in place; SQLite changes no declared type, so a wider one means a new table."""
        return rebuilding(table, before, after, cursor, self.quoting)

    def delete_matching(self, table: sa.Table, staged: sa.Table, names: Sequence[str]) -> str:
        """By row id. CROSS JOIN fixes the order of the loops: for each staged row one search in the index."""
        target, stage = self._names(table, staged)
        same = _same(names, self.quoting)
        return (
            f"DELETE FROM {target} WHERE _rowid_ IN"
            f" (SELECT t._rowid_ FROM temp.{stage} AS s CROSS JOIN {target} AS t ON {same})"
        )

    def delete_copies(self, table: sa.Table, staged: sa.Table, names: Sequence[str], number: str, copies: str) -> str:
        """By row id, numbered within each staged row."""
        target, stage = self._names(table, staged)
        same = _same(names, self.quoting)
        return (
            f"DELETE FROM {target} WHERE _rowid_ IN (SELECT id FROM ("
            f"SELECT t._rowid_ AS id, s.{copies} AS copies, row_number() OVER (PARTITION BY s.{number}) AS nth"
            f" FROM temp.{stage} AS s CROSS JOIN {target} AS t ON {same}) WHERE nth <= copies)"
        )

    def changed_rows(self, cursor: Any) -> int:
        """SQLite counts for the connection."""
        cursor.execute("SELECT changes()")
        return int(cursor.fetchone()[0])

    def _names(self, *tables: sa.Table) -> list[str]:
        quoted = self.quoting.identifier_preparer.quote_identifier
        return [quoted(table.name) for table in tables]


def _same(names: Sequence[str], quoting: sa.Dialect) -> str:
    quoted = quoting.identifier_preparer.quote_identifier
    return " AND ".join(f"t.{quoted(name)} IS s.{quoted(name)}" for name in names)


def _encoded(column: pa.ChunkedArray, table: str, name: str) -> pa.Array:
    array = column.combine_chunks()
    if is_nested(array.type):
        return nested_text(array)
    if pa.types.is_decimal(array.type):
        return decimal_text(array)
    if pa.types.is_temporal(array.type):
        return moment_text(array)
    if pa.types.is_floating(array.type) and pc.any(pc.is_nan(array)).as_py():
        raise SchemaMismatch(
            f"Column {name} of {table} holds a NaN, which SQLite would turn into NULL.",
            remedy="Map it in the step's SQL, for example with nullif(x, 'NaN'), or use a sink that holds NaN.",
            table=table,
            column=name,
        )
    return array


def _decoded(array: pa.Array, stored: pa.DataType) -> pa.Array:
    if is_nested(stored):
        return nested_values(array, stored)
    if pa.types.is_temporal(stored):
        return moments(array, stored)
    return array.cast(stored)


def _sample(stored: pa.DataType) -> str:
    types = pa.types
    if types.is_boolean(stored) or types.is_integer(stored):
        return "0"
    if types.is_floating(stored):
        return "0.0"
    return "x''" if types.is_binary(stored) else "''"


def _translation(error: Error, where: str, path: str) -> RaypipeError:
    text = str(error)
    # Where SQLite cannot make a file beside the database or let it grow, it says no more than that.
    vague = "disk I/O error" in text or "failed to open" in text or "unable to open" in text
    found = hindrance(path) if vague else None
    if "is locked" in text:
        return Unavailable(f"{where} is locked by another writer.", remedy="Let it finish.", cause=error)
    if "is full" in text or found is Hindrance.FULL:
        return Unavailable(f"{where} cannot grow: the disk is full.", remedy="Make room there.", cause=error)
    if "readonly" in text or found is Hindrance.READ_ONLY:
        return Unavailable(f"{where} is read-only.", remedy="Give this user the right to write it.", cause=error)
    if "failed to open" in text or "unable to open" in text:
        return Unavailable(f"{where} cannot be opened.", remedy="Check that its folder exists and is writable.")
    if "disk I/O error" in text:
        return Unavailable(f"{where} cannot be read or written: disk I/O error.", cause=error)
    if "not a database" in text or "malformed" in text:
        return Corrupt(f"{where} is no SQLite database, or a damaged one.", remedy="Restore it or name another.")
    return InvariantBroken(f"{where} refused a statement of raypipe's own.", status=str(error.status_code))
