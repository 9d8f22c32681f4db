"""The captured tables as their topics have them up to fixed ends: what the messages come to, folded in DuckDB."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from raypipe.errors import SchemaMismatch
from raypipe.model import OP, Op
from raypipe.sources.debezium.following import Following
from raypipe.sources.debezium.position import Position
from raypipe.sources.debezium.reader import Reader
from raypipe.sources.quarantine import QUARANTINE

# A piece that is folded in; the reader needs a few times as much while it decodes one.
_PIECE_BYTES = 8 << 20
_BATCH_ROWS = 65_536
# DuckDB goes to its file beyond this.
_MEMORY = "512MB"
# Tables that a view is folded in.
_CHANGES, _PARKED = "changes", "parked"


class DebeziumView:
    """Present rows of the chosen tables; see ``raypipe.contracts.SourceView``.

    Args:
        instance: Name.
        position: The ends.
        readers: For each table (``instance.table``) a reader that has yet to load it.
    """

    def __init__(self, instance: str, position: Position, readers: Mapping[str, Reader]) -> None:
        self.position = position.to_text()
        self._instance = instance
        self._ends = position
        self._readers = readers
        self._parked: dict[str, int] = {}

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        """See ``raypipe.contracts.SourceView``; reads the topic from its beginning."""
        reader = self._reader(table)
        (following,) = reader.tables.values()
        following.restart = True
        with tempfile.TemporaryDirectory(prefix="raypipe-view-") as folder:
            path = Path(folder) / "fold.duckdb"
            with duckdb.connect(str(path), config={"threads": 1, "memory_limit": _MEMORY}) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                while (piece := reader.next_piece(_PIECE_BYTES, self._ends)) is not None:
                    for batch in piece.batches:
                        _add(connection, batch.rows, _PARKED if batch.schema.table.table == QUARANTINE else _CHANGES)
                self._parked[table] = _count(connection)
                yield from _present(connection, following)
        reader.close()

    def parked(self, table: str) -> int:
        """See ``raypipe.contracts.SourceView``; known once the rows were read."""
        if table not in self._parked:
            for _ in self.rows(table):
                pass
        return self._parked[table]

    def _reader(self, table: str) -> Reader:
        if table not in self._readers:
            raise SchemaMismatch(
                f"Table {table!r} is not captured from source {self._instance!r}.",
                remedy=f"Captured: {', '.join(self._readers)}.",
            )
        return self._readers[table]


def _add(connection: duckdb.DuckDBPyConnection, rows: pa.RecordBatch, into: str) -> None:
    """Appends changes with their number; what a TRUNCATE ends is forgotten at once."""
    given = pa.Table.from_batches([rows])
    connection.register("given", given)
    connection.execute("CREATE SEQUENCE IF NOT EXISTS numbers")
    made = "AS SELECT 0::BIGINT AS number, * FROM given LIMIT 0"
    connection.execute(f"CREATE TABLE IF NOT EXISTS {into} {made}")
    names = {row[0] for row in connection.execute(f"SELECT column_name FROM (DESCRIBE {into})").fetchall()}
    if not set(given.column_names) <= names:
        # The topic says more than it did: the table is loaded again, so what was read before is void.
        connection.execute(f"CREATE OR REPLACE TABLE {into} {made}")
    connection.execute(f"INSERT INTO {into} BY NAME SELECT nextval('numbers') AS number, * FROM given")
    connection.unregister("given")
    connection.execute(
        f"DELETE FROM {into} WHERE number <= (SELECT max(number) FROM {into} WHERE {OP} = {Op.TRUNCATE:d})"
    )


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    """Rows in quarantine."""
    if not connection.execute(f"SELECT 1 FROM duckdb_tables() WHERE table_name = '{_PARKED}'").fetchall():
        return 0
    ((count,),) = connection.execute(
        f"SELECT count(*) FROM (SELECT * FROM {_PARKED} QUALIFY row_number() OVER (PARTITION BY row_key"
        f" ORDER BY number DESC) = 1) WHERE {OP} <> {Op.DELETE:d}"
    ).fetchall()
    return int(count)


def _present(connection: duckdb.DuckDBPyConnection, following: Following) -> Iterator[pa.RecordBatch]:
    shape = following.shape
    schema = pa.schema([pa.field(each.name, each.arrow) for each in shape.fields])
    columns = ", ".join(_quoted(each.name) for each in shape.fields)
    weight = f"CASE WHEN {OP} IN ({Op.UPDATE_BEFORE:d}, {Op.DELETE:d}) THEN -1 ELSE 1 END"
    if shape.key:
        key = ", ".join(_quoted(name) for name in shape.key)
        found = (
            f"SELECT {columns} FROM (SELECT * FROM {_CHANGES} QUALIFY row_number() OVER (PARTITION BY {key}"
            f" ORDER BY number DESC) = 1) WHERE {weight} > 0"
        )
    else:
        found = (
            f"SELECT {columns} FROM (SELECT {columns}, unnest(range(sum({weight})::BIGINT)) FROM {_CHANGES}"
            f" GROUP BY {columns})"
        )
    for batch in connection.sql(found).to_arrow_reader(_BATCH_ROWS):
        yield pa.RecordBatch.from_arrays(
            [batch.column(each.name).cast(each.arrow) for each in shape.fields], schema=schema
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
