"""A SQL database as a ``Store``: SQLAlchemy writes the statements, ADBC moves the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable, DropIndex, DropTable
from sqlalchemy.types import UserDefinedType

from raypipe.errors import InvariantBroken, RaypipeError, SchemaMismatch
from raypipe.model import Cut
from raypipe.sinks.ledger import LEDGER_TABLE, Ledger, tables_from_json
from raypipe.sinks.sql.dialect import Dialect
from raypipe.sinks.store import EmptySnapshot, Snapshot

_STAGE = "raypipe_stage"  # a temporary table; lives for one statement
_NUMBER = "_raypipe_number"
_COPIES = "_raypipe_copies"
# An index over more columns costs more to keep than it saves: the first few tell almost all rows apart.
_INDEXED_COLUMNS = 4

_LEDGER = sa.Table(
    LEDGER_TABLE,
    sa.MetaData(),
    sa.Column("pipeline", sa.Text, primary_key=True),
    sa.Column("sink", sa.Text, primary_key=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("cut_number", sa.BigInteger),
    sa.Column("cut", sa.Text),
    sa.Column("tables", sa.Text, nullable=False),
)
_READ_LEDGER = sa.select(_LEDGER.c.generation, _LEDGER.c.cut, _LEDGER.c.tables).where(
    _LEDGER.c.pipeline == sa.bindparam("owner_pipeline"), _LEDGER.c.sink == sa.bindparam("owner_sink")
)
_UPDATE_LEDGER = sa.update(_LEDGER).where(
    _LEDGER.c.pipeline == sa.bindparam("owner_pipeline"),
    _LEDGER.c.sink == sa.bindparam("owner_sink"),
    _LEDGER.c.generation <= sa.bindparam("fence"),
)


class _Declared(UserDefinedType[Any]):
    """A column type under the name that the dialect gives it."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


class SqlStore:
    """See ``Store``.

    Args:
        dialect: Of the database, with its address.
        pipeline: Whose row of the ledger it is.
        sink: Likewise.
    """

    def __init__(self, *, dialect: Dialect, pipeline: str, sink: str) -> None:
        self.where = dialect.name
        self._dialect = dialect
        self._owner = {"owner_pipeline": pipeline, "owner_sink": sink}
        self._connection: Any = None
        self._cursor: Any = None
        self._in_transaction = False

    def connect(self) -> None:
        """Connects if it is not connected."""
        if self._connection is None:
            with self._dialect.translated():
                self._connection = self._dialect.connect()
                self._cursor = self._connection.cursor()
            try:
                self._run(CreateTable(_LEDGER, if_not_exists=True))
            except BaseException:
                self._hang_up()
                raise

    def disconnect(self) -> None:
        """Disconnects; rolls back what was not committed."""
        self.rollback()
        self._hang_up()

    def rest(self) -> None:
        """Nothing to do: outside a transaction a connection holds no lock."""

    def begin(self) -> None:
        """Starts a transaction; takes the database's write lock where there is one."""
        self._run_text(self._dialect.begin)
        self._in_transaction = True

    def commit(self) -> None:
        """Commits."""
        self._run_text("COMMIT")
        self._in_transaction = False

    def rollback(self) -> None:
        """Rolls back; a database that did so itself (SQLite when the disk is full) is connected to anew."""
        if self._connection is not None and self._in_transaction:
            self._in_transaction = False
            try:
                self._run_text("ROLLBACK")
            except RaypipeError:
                self._hang_up()

    def read_ledger(self) -> Ledger:
        """The sink's row."""
        with self._dialect.translated():
            return _ledger(self._open_cursor(), self._dialect, self._owner)

    def write_ledger(self, ledger: Ledger, fence: int) -> bool:
        """Replaces the sink's row."""
        values: dict[str, Any] = {
            "generation": ledger.generation,
            "cut_number": ledger.cut.number if ledger.cut is not None else None,
            "cut": ledger.cut.to_json() if ledger.cut is not None else None,
            "tables": ledger.tables_json(),
        }
        if self._run(_UPDATE_LEDGER.values(values), self._owner | {"fence": fence}) == 1:
            return True
        if self.read_ledger() != Ledger():  # a higher generation stands there
            return False
        row = values | {"pipeline": self._owner["owner_pipeline"], "sink": self._owner["owner_sink"]}
        return self._run(sa.insert(_LEDGER).values(row)) == 1

    def columns(self, table: str) -> pa.Schema | None:
        """A table's columns."""
        with self._dialect.translated():
            return _columns(self._open_cursor(), self._dialect, table)

    def create(self, table: str, columns: pa.Schema) -> None:
        """Creates a table without constraints: keys may hold NULL, and an epoch may pass through any state."""
        self._refuse_reserved(table, columns)
        self._run(CreateTable(self._table(table, columns)))

    def drop(self, table: str) -> None:
        """Drops a table."""
        self._run(DropTable(sa.table(table), if_exists=True))  # type: ignore[arg-type]

    def widen(self, table: str, before: pa.Schema, after: pa.Schema) -> None:
        """Adds and widens columns the way the database does it."""
        self._refuse_reserved(table, after)
        with self._dialect.translated():
            statements = self._dialect.widen(self._table(table, after), before, after, self._open_cursor())
        for statement in statements:
            self._run_text(statement)

    def index(self, table: str, identity: list[str]) -> None:
        """Indexes the identity; not unique, since NULL may be a key."""
        target = sa.Table(table, sa.MetaData(), *(sa.Column(name) for name in identity))
        index = sa.Index(f"raypipe_{table}_identity", *list(target.columns)[:_INDEXED_COLUMNS])
        self._run(DropIndex(index, if_exists=True))
        self._run(CreateIndex(index))

    def insert(self, table: str, rows: pa.Table) -> None:
        """Adds rows."""
        encoded = self._dialect.encode(table, rows)
        with self._dialect.translated():
            self._open_cursor().adbc_ingest(table, encoded, mode="append")

    def delete_all(self, table: str) -> None:
        """Removes all rows."""
        self._run(sa.delete(sa.table(table)))

    def delete_matching(self, table: str, keys: pa.Table) -> None:
        """Removes rows that a staged table names."""
        target = self._table(table, keys.schema)
        with self._staged(table, keys) as staged:
            self._run_text(self._dialect.delete_matching(target, staged, keys.column_names))

    def replace(self, table: str, upserts: pa.Table, deletes: pa.Table) -> None:
        """Two statements."""
        stale = pa.concat_tables([deletes, upserts.select(deletes.column_names)])
        if stale.num_rows:
            self.delete_matching(table, stale)
        if upserts.num_rows:
            self.insert(table, upserts)

    def delete_copies(self, table: str, rows: pa.Table, copies: pa.Array) -> int:
        """Removes copies of rows that a staged table names."""
        target = self._table(table, rows.schema)
        numbers = pa.array(np.arange(rows.num_rows))
        with self._staged(table, rows.append_column(_NUMBER, numbers).append_column(_COPIES, copies)) as staged:
            return self._run_text(self._dialect.delete_copies(target, staged, rows.column_names, _NUMBER, _COPIES))

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A connection of its own; a missing database is an empty store."""
        if not self._dialect.exists():
            yield EmptySnapshot()
            return
        with self._dialect.translated():
            connection = self._dialect.connect_to_read()
        try:
            with self._dialect.translated():
                cursor = connection.cursor()
                cursor.execute("BEGIN")
                snapshot = _SqlSnapshot(cursor, self._dialect, self._owner)
            yield snapshot
        finally:
            with suppress(RaypipeError), self._dialect.translated():
                cursor.close()
                connection.close()

    def _hang_up(self) -> None:
        connection, cursor, self._connection, self._cursor = self._connection, self._cursor, None, None
        with suppress(RaypipeError), self._dialect.translated():
            if cursor is not None:
                cursor.close()
            if connection is not None:
                connection.close()

    def _refuse_reserved(self, table: str, columns: pa.Schema) -> None:
        for name in columns.names:
            if name.lower() in self._dialect.reserved:
                raise SchemaMismatch(
                    f"Column {name} of {table} has a name that {self.where} needs for itself.",
                    remedy="Rename it in the step's SQL.",
                )

    @contextmanager
    def _staged(self, table: str, rows: pa.Table) -> Iterator[sa.Table]:
        staged = self._table(_STAGE, rows.schema, prefixes=["TEMPORARY"])
        encoded = self._dialect.encode(table, rows)
        self._run(CreateTable(staged))
        with self._dialect.translated():
            self._open_cursor().adbc_ingest(_STAGE, encoded, mode="append", temporary=True)
        yield staged
        self._run(DropTable(staged))  # after an error the rollback drops it

    def _table(self, name: str, columns: pa.Schema, prefixes: Sequence[str] = ()) -> sa.Table:
        declared = (sa.Column(field.name, _Declared(self._dialect.declared(field.type))) for field in columns)
        return sa.Table(name, sa.MetaData(), *declared, prefixes=list(prefixes))

    def _open_cursor(self) -> Any:
        if self._cursor is None:
            raise InvariantBroken(f"{self.where} was used while it was closed.")
        return self._cursor

    def _run(self, statement: sa.Executable | sa.schema.ExecutableDDLElement, values: Any = None) -> int:
        return self._run_text(*_compiled(statement, self._dialect, values))

    def _run_text(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Runs a statement and returns how many rows it changed."""
        cursor = self._open_cursor()
        with self._dialect.translated():
            cursor.execute(statement, values or None)
            return self._dialect.changed_rows(cursor)


class _SqlSnapshot:
    """See ``Snapshot``."""

    def __init__(self, cursor: Any, dialect: Dialect, owner: dict[str, str]) -> None:
        self._cursor = cursor
        self._dialect = dialect
        self.ledger = _ledger(cursor, dialect, owner) if dialect.columns(cursor, LEDGER_TABLE) else Ledger()

    def columns(self, table: str) -> pa.Schema | None:
        """A table's columns."""
        with self._dialect.translated():
            return _columns(self._cursor, self._dialect, table)

    def rows(self, table: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Streams a table."""
        with self._dialect.translated():
            yield from self._dialect.read(self._cursor, table, columns)


def _compiled(statement: Any, dialect: Dialect, values: dict[str, Any] | None) -> tuple[str, list[Any]]:
    compiled = statement.compile(dialect=dialect.quoting)
    bound = compiled.construct_params(values) if getattr(compiled, "positiontup", None) else {}
    return str(compiled), [bound[name] for name in getattr(compiled, "positiontup", None) or ()]


def _ledger(cursor: Any, dialect: Dialect, owner: dict[str, str]) -> Ledger:
    cursor.execute(*_compiled(_READ_LEDGER, dialect, owner))
    row = cursor.fetchone()
    if row is None:
        return Ledger()
    generation, cut, tables = row
    return Ledger(
        generation=generation, cut=Cut.from_json(cut) if cut is not None else None, tables=tables_from_json(tables)
    )


def _columns(cursor: Any, dialect: Dialect, table: str) -> pa.Schema | None:
    found = dialect.columns(cursor, table)
    for name, stored in found:
        if stored is None:
            raise SchemaMismatch(f"Column {name} of {table} in {dialect.name} has a type that raypipe does not make.")
    return pa.schema(found) if found else None
