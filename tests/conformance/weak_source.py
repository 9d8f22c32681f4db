"""A source that looks right and is not: it copies the tables and then compares them with its memory, as pollers do."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raypipe.contracts import Piece, SourceView
from raypipe.errors import InvariantBroken, SchemaMismatch
from raypipe.model import ChangeBatch, Column, Image, Op, TableName, TableSchema

# The rules that a poller keeps. Every other rule must find it out.
KEPT = {
    "a_load_begins_with_a_truncate_and_brings_every_row",
    "a_large_load_comes_in_pieces_and_says_so",
    "a_changed_key_takes_the_row_along",
    "what_is_rolled_back_is_not_seen",
    "many_small_transactions_share_a_piece",
    "an_idle_source_has_no_piece_and_a_change_ends_the_wait",
    "tables_can_be_looked_at_before_anything_is_opened",
    "a_missing_table_is_refused_with_the_names_of_the_others",
}
KEYS = {"accounts": ("id",), "moves": ("id",), "notes": ()}
TYPES = {"INTEGER": pa.int64(), "TEXT": pa.string()}
CHUNK_ROWS = 50


class WeakSource:
    """Knows the present and its own memory of the past; nothing of what lay between, nothing after a restart."""

    def __init__(self, instance: str, path: Path, tables: Sequence[str]) -> None:
        self.instance = instance
        self._path = path
        self._tables = tables
        self._seen: dict[str, list[tuple]] | None = None
        self._loaded: dict[str, int] = {}
        self._clock = 0

    def tables(self) -> tuple[TableSchema, ...]:
        return tuple(self._schema(table) for table in self._tables)

    def _schema(self, table: str) -> TableSchema:
        columns = self._rows(f"PRAGMA table_info({table})")
        if not columns:
            raise SchemaMismatch(f"no table {table!r}; there are {', '.join(KEYS)}")
        return TableSchema(
            table=TableName(self.instance, "main", table),
            columns=tuple(Column(name=column[1], type=TYPES[column[2]], declared=column[2]) for column in columns),
            key=KEYS[table],
        )

    def _rows(self, query: str) -> list[tuple]:
        connection = sqlite3.connect(self._path)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def open(self, position: str | None, reload: Collection[str] = ()) -> None:
        self._seen = {table: [] for table in self._tables}
        self._loaded = dict.fromkeys(self._tables, 0) if position is None else {}
        self._clock = int(position or 0)

    def poll(self, max_bytes: int, upto: str | None = None) -> Piece | None:
        """A piece for each table, one after another, each called a boundary."""
        if self._seen is None:
            raise InvariantBroken("not open")
        for table in self._tables:
            changes = self._load(table) if table in self._loaded else self._compare(table)
            if changes:
                self._clock += 1
                batch = self._batch(self._schema(table), changes)
                loading = tuple(f"{self.instance}.{table}" for table in self._loaded)
                return Piece(batches=(batch,), position=str(self._clock), boundary=True, loading=loading)
        return None

    def _load(self, table: str) -> list[tuple[Op, tuple | None]]:
        """The next rows by their number; what was changed meanwhile counts as seen."""
        begin = self._loaded[table]
        rows = self._rows(f"SELECT * FROM {table} LIMIT {CHUNK_ROWS} OFFSET {begin}")
        self._loaded[table] = begin + len(rows)
        if len(rows) < CHUNK_ROWS:
            del self._loaded[table]
            self._seen[table] = self._rows(f"SELECT * FROM {table}")
        return [*([] if begin else [(Op.TRUNCATE, None)]), *((Op.READ, row) for row in rows)]

    def _compare(self, table: str) -> list[tuple[Op, tuple | None]]:
        now, before = self._rows(f"SELECT * FROM {table}"), self._seen[table]
        self._seen[table] = now
        changes = [(Op.DELETE, row) for row in before if row not in now]
        return changes + [(Op.INSERT, row) for row in now if row not in before]

    def _batch(self, schema: TableSchema, changes: list[tuple[Op, tuple | None]]) -> ChangeBatch:
        rows = [
            (int(op), int(Image.FULL), self._clock, place, None, *(values or [None] * len(schema.columns)))
            for place, (op, values) in enumerate(changes)
        ]
        shape = ChangeBatch.arrow_schema(schema)
        arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), shape, strict=True)]
        return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_arrays(arrays, schema=shape))

    def wait(self, timeout_s: float) -> bool:
        return True

    def acknowledge(self, position: str) -> None: ...

    @contextmanager
    def view(self) -> Iterator[SourceView]:
        yield WeakView(self, str(self._clock))

    def progress(self) -> Mapping[str, float]:
        return {f"{self.instance}.{table}": 0.0 for table in self._loaded}

    def close(self) -> None: ...


@dataclass
class WeakView:
    """Reads the tables whenever it is asked, each at another moment."""

    source: WeakSource
    position: str

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        schema = self.source._schema(table.rpartition(".")[2])
        rows = self.source._rows(f"SELECT * FROM {schema.table.table}")
        columns = zip(*rows, strict=True) if rows else [[] for _ in schema.columns]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema.arrow(), strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema.arrow())

    def parked(self, table: str) -> int:
        return 0
