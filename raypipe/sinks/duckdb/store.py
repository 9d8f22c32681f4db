"""A DuckDB file as a ``Store``: rows go in as Arrow, all work is done by statements over whole batches.

No table has an index. DuckDB's indexes slow a load down many times and refuse a delete and an insert of one key in one
transaction; a hash semi join finds 100,000 keys among a million rows in 11 ms without one (measured on two cores).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from raypipe.errors import InvariantBroken, SchemaMismatch, Unavailable
from raypipe.model import Cut
from raypipe.sinks.duckdb.connect import MEMORY_LIMIT, connect, connect_to_read, translated
from raypipe.sinks.duckdb.stage import Replacement, Stage
from raypipe.sinks.ledger import LEDGER_TABLE, Ledger, tables_from_json
from raypipe.sinks.store import EmptySnapshot, Snapshot
from raypipe.sinks.types import duckdb_type, stored_type

_ROWS = "raypipe_rows"  # the Arrow rows of the statement at hand
_NUMBER = "_raypipe_number"
_COPIES = "_raypipe_copies"
_READ_ROWS = 100_000

_CREATE_LEDGER = f"""
    CREATE TABLE IF NOT EXISTS {LEDGER_TABLE} (
        pipeline VARCHAR NOT NULL, sink VARCHAR NOT NULL, generation BIGINT NOT NULL, cut_number BIGINT, cut VARCHAR,
        tables VARCHAR NOT NULL, PRIMARY KEY (pipeline, sink))"""
_READ_LEDGER = f"SELECT generation, cut, tables FROM {LEDGER_TABLE} WHERE pipeline = ? AND sink = ?"
# Views too: they take the name as well.
_HAS_TABLE = (
    "SELECT count(*) FROM information_schema.tables"
    " WHERE table_schema = current_schema() AND lower(table_name) = lower(?)"
)


class DuckDbStore:
    """See ``Store``.

    Args:
        path: Of the file.
        pipeline: Whose row of the ledger it is.
        sink: Likewise.
        memory_limit: DuckDB's setting.
    """

    def __init__(self, *, path: str, pipeline: str, sink: str, memory_limit: str = MEMORY_LIMIT) -> None:
        self.where = f"DuckDB file {path}"
        self._path = path
        self._owner = [pipeline, sink]
        self._memory_limit = memory_limit
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._in_transaction = False
        self._stages: dict[str, Stage] = {}

    def connect(self) -> None:
        """Opens the file if it is closed."""
        if self._connection is None:
            self._connection = connect(self._path, self._memory_limit)
            try:
                self._run(_CREATE_LEDGER)
            except BaseException:
                self.disconnect()
                raise

    def disconnect(self) -> None:
        """Closes the file; DuckDB writes its WAL into the file then."""
        self._forget_stages()
        connection, self._connection, self._in_transaction = self._connection, None, False
        if connection is not None:
            with suppress(duckdb.Error):  # what was committed is safe in the WAL
                connection.close()

    def rest(self) -> None:
        """Closes the file: as long as it is open, no other process can even read it."""
        self.disconnect()

    def begin(self) -> None:
        """Starts a transaction."""
        self._run("BEGIN TRANSACTION")
        self._in_transaction = True

    def commit(self) -> None:
        """Applies what is staged and commits."""
        for table in list(self._stages):
            self._settle(table)
        self._run("COMMIT")
        self._in_transaction = False

    def rollback(self) -> None:
        """Rolls back; a file that cannot even do that is closed."""
        self._forget_stages()
        if self._connection is not None and self._in_transaction:
            self._in_transaction = False
            try:
                self._connection.execute("ROLLBACK")
            except duckdb.Error:
                self.disconnect()

    def read_ledger(self) -> Ledger:
        """The sink's row."""
        with translated(self._path):
            return _ledger(self._connected(), self._owner)

    def write_ledger(self, ledger: Ledger, fence: int) -> bool:
        """Replaces the sink's row."""
        number, cut = (ledger.cut.number, ledger.cut.to_json()) if ledger.cut is not None else (None, None)
        values = [ledger.generation, number, cut, ledger.tables_json()]
        updated = self._run(
            f"UPDATE {LEDGER_TABLE} SET generation = ?, cut_number = ?, cut = ?, tables = ?"
            " WHERE pipeline = ? AND sink = ? AND generation <= ?",
            [*values, *self._owner, fence],
        )
        return (
            updated == 1
            or self._run(
                f"INSERT INTO {LEDGER_TABLE} (generation, cut_number, cut, tables, pipeline, sink)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [*values, *self._owner],
            )
            == 1
        )

    def columns(self, table: str) -> pa.Schema | None:
        """A table's columns."""
        with translated(self._path):
            return _columns(self._connected(), table, self.where)

    def create(self, table: str, columns: pa.Schema) -> None:
        """Creates a table without constraints."""
        declared = ", ".join(f"{_name(field.name)} {duckdb_type(field.type)}" for field in columns)
        self._run(f"CREATE TABLE {_name(table)} ({declared})")

    def drop(self, table: str) -> None:
        """Drops a table."""
        self._forget_stage(table)
        self._run(f"DROP TABLE IF EXISTS {_name(table)}")

    def widen(self, table: str, before: pa.Schema, after: pa.Schema) -> None:
        """Adds and alters columns in place."""
        self._settle(table)
        for field in after:
            declared = duckdb_type(field.type)
            if field.name not in before.names:
                self._run(f"ALTER TABLE {_name(table)} ADD COLUMN {_name(field.name)} {declared}")
            elif field.type != before.field(field.name).type:
                self._run(f"ALTER TABLE {_name(table)} ALTER COLUMN {_name(field.name)} TYPE {declared}")

    def index(self, table: str, identity: list[str]) -> None:
        """Nothing to do (see the module)."""

    def insert(self, table: str, rows: pa.Table) -> None:
        """Adds rows."""
        self._settle(table)
        self._insert(table, rows)

    def _insert(self, table: str, rows: pa.Table) -> None:
        names = ", ".join(map(_name, rows.column_names))
        self._run_over(rows, f"INSERT INTO {_name(table)} ({names}) SELECT {names} FROM {_ROWS}")

    def delete_all(self, table: str) -> None:
        """Removes all rows."""
        self._forget_stage(table)
        self._run(f"DELETE FROM {_name(table)}")

    def delete_matching(self, table: str, keys: pa.Table) -> None:
        """Removes rows by a semi join."""
        self._settle(table)
        self._delete(table, keys)

    def replace(self, table: str, upserts: pa.Table, deletes: pa.Table) -> None:
        """Stages; ``commit`` applies it."""
        identity = deletes.column_names
        if table in self._stages and self._stages[table].identity != identity:
            self._settle(table)
        stage = self._stages.setdefault(table, Stage(Path(self._path).absolute().parent, identity))
        with self._staging():
            stage.add(Replacement(upserts=upserts, deletes=deletes))

    def _settle(self, table: str) -> None:
        """Applies what is staged for a table: each key is deleted and inserted once."""
        stage = self._stages.pop(table, None)
        if stage is None:
            return
        try:
            with self._staging():
                for each in stage.take():
                    stale = pa.concat_tables([each.deletes, each.upserts.select(stage.identity)])
                    if stale.num_rows:
                        self._delete(table, stale)
                    if each.upserts.num_rows:
                        self._insert(table, each.upserts)
        finally:
            stage.close()

    @contextmanager
    def _staging(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"What waits for the commit of {self.where} cannot be kept beside it: {error.strerror}.",
                remedy="Make room there.",
                cause=error,
            ) from error

    def _forget_stage(self, table: str) -> None:
        if table in self._stages:
            self._stages.pop(table).close()

    def _forget_stages(self) -> None:
        for table in list(self._stages):
            self._forget_stage(table)

    def _delete(self, table: str, keys: pa.Table) -> None:
        target = _name(table)
        same = _same(keys.column_names, target, _ROWS)
        self._run_over(keys, f"DELETE FROM {target} WHERE EXISTS (SELECT 1 FROM {_ROWS} WHERE {same})")

    def delete_copies(self, table: str, rows: pa.Table, copies: pa.Array) -> int:
        """Removes copies by their row ids, numbered within each row."""
        self._settle(table)
        if "rowid" in (name.lower() for name in rows.column_names):
            raise SchemaMismatch(
                f"Table {table} has no key and a column named rowid, which hides the row ids of {self.where}.",
                remedy="Rename the column in the step's SQL, or select the key columns too.",
            )
        target = _name(table)
        numbered = rows.append_column(_NUMBER, pa.array(np.arange(rows.num_rows))).append_column(_COPIES, copies)
        return self._run_over(
            numbered,
            f"""
            DELETE FROM {target} WHERE rowid IN (
                SELECT id FROM (
                    SELECT {target}.rowid AS id, {_COPIES},
                           row_number() OVER (PARTITION BY {_NUMBER}) AS nth
                    FROM {target} JOIN {_ROWS} ON {_same(rows.column_names, target, _ROWS)})
                WHERE nth <= {_COPIES})""",
        )

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A cursor beside our own connection, or a connection that only reads; a missing file is an empty store."""
        if self._connection is None and not os.path.exists(self._path):
            yield EmptySnapshot()
            return
        with translated(self._path):
            reader = self._connection.cursor() if self._connection is not None else connect_to_read(self._path)
        try:
            with translated(self._path):
                reader.execute("BEGIN TRANSACTION")
                snapshot = _DuckDbSnapshot(reader, self._path, self._owner)
            yield snapshot
        finally:
            with suppress(duckdb.Error):
                reader.close()

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise InvariantBroken(f"{self.where} was used while it was closed.")
        return self._connection

    def _run(self, statement: str, values: Sequence[object] | None = None) -> int:
        """Runs a statement and returns how many rows it changed, 0 if it does not say."""
        with translated(self._path):
            answer = self._connected().execute(statement, values).fetchall()
        return int(answer[0][0]) if answer and isinstance(answer[0][0], int) else 0

    def _run_over(self, rows: pa.Table, statement: str) -> int:
        connection, lent = self._connected(), _Lent(rows)
        with translated(self._path):
            connection.register(_ROWS, lent)
        try:
            return self._run(statement)
        finally:
            lent.take_back()
            with suppress(duckdb.Error):
                connection.unregister(_ROWS)


class _Lent:
    """Rows that DuckDB sees for one statement.

    DuckDB keeps a registered object until the transaction ends, even when it is unregistered before: an epoch of many
    batches would keep all of them in memory. So it keeps this, and this gives the rows back.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def __arrow_c_schema__(self) -> object:
        return self._rows.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._rows.__arrow_c_stream__(requested_schema)

    def take_back(self) -> None:
        """Forgets the rows."""
        self._rows = self._rows.schema.empty_table()


class _DuckDbSnapshot:
    """See ``Snapshot``."""

    def __init__(self, reader: duckdb.DuckDBPyConnection, path: str, owner: list[str]) -> None:
        self._reader = reader
        self._path = path
        self.ledger = _ledger(reader, owner) if _has_table(reader, LEDGER_TABLE) else Ledger()

    def columns(self, table: str) -> pa.Schema | None:
        """A table's columns."""
        with translated(self._path):
            return _columns(self._reader, table, f"DuckDB file {self._path}")

    def rows(self, table: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Streams a table."""
        names = ", ".join(map(_name, columns.names))
        with translated(self._path):
            stream = self._reader.sql(f"SELECT {names} FROM {_name(table)}").to_arrow_reader(_READ_ROWS)
            with stream:
                for batch in stream:
                    yield pa.RecordBatch.from_arrays(
                        [column.cast(field.type) for column, field in zip(batch.columns, columns, strict=True)],
                        schema=columns,
                    )


def _ledger(connection: duckdb.DuckDBPyConnection, owner: list[str]) -> Ledger:
    row = next(iter(connection.execute(_READ_LEDGER, owner).fetchall()), None)
    if row is None:
        return Ledger()
    generation, cut, tables = row
    return Ledger(
        generation=generation, cut=Cut.from_json(cut) if cut is not None else None, tables=tables_from_json(tables)
    )


def _has_table(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    return bool(connection.execute(_HAS_TABLE, [table]).fetchall()[0][0])


def _columns(connection: duckdb.DuckDBPyConnection, table: str, where: str) -> pa.Schema | None:
    if not _has_table(connection, table):
        return None
    found = connection.sql(f"SELECT * FROM {_name(table)} LIMIT 0").to_arrow_table().schema
    unknown = [field.name for field in found if stored_type(field.type) is None]
    if unknown:
        raise SchemaMismatch(f"Column {unknown[0]} of {table} in {where} has a type that raypipe does not make.")
    return pa.schema([pa.field(field.name, stored_type(field.type)) for field in found])


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _same(names: list[str], one: str, other: str) -> str:
    return " AND ".join(f"{one}.{_name(name)} IS NOT DISTINCT FROM {other}.{_name(name)}" for name in names)
