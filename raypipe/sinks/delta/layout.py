"""What a Delta table of raypipe looks like: its columns, its partitions, and what its rows mean."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SchemaMismatch
from raypipe.model import IMAGE, OP, SYSTEM_FIELDS, ChangeBatch, Image, Mode, Op, SinkTable, TableSchema
from raypipe.model.change import BRANCH_FIELD
from raypipe.sinks.delta.types import PARTITION_TYPES, delta_form, encode, partitions
from raypipe.sinks.netting import history_rows
from raypipe.sinks.types import check_key, check_names, stored_schema

STORE = "Delta Lake"

# History tables are read by people, so op and image are words there. An update that keeps its key is one row.
_OP_WORDS: dict[int, str] = {
    Op.READ: "read",
    Op.INSERT: "insert",
    Op.UPDATE_AFTER: "update",
    Op.DELETE: "delete",
    Op.TRUNCATE: "truncate",
}
_IMAGE_WORDS: dict[int, str] = {Image.FULL: "full", Image.KEY: "key", Image.PARTIAL: "partial"}
_WORDS = {OP: _OP_WORDS, IMAGE: _IMAGE_WORDS}


def columns_of(batch_schema: pa.Schema, table: str) -> pa.Schema:
    """The Delta form of a relation's columns.

    Raises:
        SchemaMismatch: a type that no store holds.
    """
    stored = stored_schema(batch_schema, table, STORE)
    return pa.schema([pa.field(field.name, delta_form(field.type)) for field in stored])


def table_columns(table: SinkTable, columns: pa.Schema) -> pa.Schema:
    """All columns of a Delta table, given those of its relation in their Delta form."""
    system = []
    if table.mode is Mode.HISTORY:
        system = [pa.field(f.name, pa.string() if f.name in _WORDS else f.type) for f in SYSTEM_FIELDS]
    branch = [pa.field(BRANCH_FIELD.name, BRANCH_FIELD.type)] if table.schema.branches > 1 else []
    return pa.schema([*system, *branch, *columns])


def check(table: SinkTable) -> pa.Schema:
    """The columns that the Delta table of a planned table must have.

    Raises:
        SchemaMismatch: Delta cannot hold the table so, and which part of it.
    """
    check_names(table.schema, table.name, STORE)
    check_key(table.schema, table.name, STORE)
    columns = columns_of(table.schema.arrow(), table.name)
    for name in table.partition_by:
        if name not in columns.names:
            raise SchemaMismatch(
                f"Table {table.name} is to be partitioned by {name}, which is not among its columns.",
                remedy=f"Choose from: {', '.join(columns.names)}.",
                table=table.name,
                column=name,
            )
        if not partitions(columns.field(name).type):
            raise SchemaMismatch(
                f"Table {table.name} cannot be partitioned by {name}, which is {columns.field(name).type}.",
                remedy=f"{STORE} partitions by {PARTITION_TYPES}.",
                table=table.name,
                column=name,
            )
    wanted = table_columns(table, columns)
    if table.partition_by and set(wanted.names) <= set(table.partition_by):
        raise SchemaMismatch(
            f"Table {table.name} has no column beside those it is partitioned by.",
            remedy="Leave one of them out of partition_by.",
            table=table.name,
        )
    return wanted


def view_mark(view: str) -> int:
    """A number that stands for the fingerprint of a view."""
    return _mark(view)


def shape_mark(mode: Mode, schema: TableSchema) -> int:
    """A number that changes when the rows of a table would be told apart in another way."""
    key = () if mode is Mode.HISTORY else schema.key  # a history holds changes, whatever they identify
    return _mark("\0".join((mode.value, str(schema.branches), *key)))


def staged_rows(table: SinkTable, batch: ChangeBatch) -> pa.Table:
    """Changes with their columns in Delta form; those of a history as the rows it will hold.

    Raises:
        SchemaMismatch: a type that no store holds.
    """
    history = table.mode is Mode.HISTORY
    rows = history_rows(batch) if history else pa.Table.from_batches([batch.rows])
    columns = columns_of(batch.schema.arrow(), table.name)
    encoded = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if name in columns.names:
            form = columns.field(name).type
            encoded[name] = pa.chunked_array([encode(chunk) for chunk in column.chunks], form)
        else:
            encoded[name] = _word(column, _WORDS[name]) if history and name in _WORDS else column
    return pa.table(encoded)


def number_of_word(name: str, column: pa.Array) -> pa.Array:
    """Takes the words of a history's ``OP`` or ``IMAGE`` back to numbers."""
    words = _WORDS[name]
    numbers = pa.array(list(words), pa.int8())
    return numbers.take(pc.index_in(column.cast(pa.string()), pa.array(list(words.values()))))


def _word(column: pa.ChunkedArray, words: dict[int, str]) -> pa.Array:
    by_number = np.full(max(words) + 1, None, dtype=object)
    for number, word in words.items():
        by_number[number] = word
    return pa.array(by_number, pa.string()).take(column.combine_chunks())


def _mark(text: str) -> int:
    """63 bits of SHA-256: an application transaction of Delta holds a signed 64-bit integer."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
