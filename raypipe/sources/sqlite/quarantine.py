"""Where rows wait that do not fit their columns' declared types (the rule is in ``types``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Image, Op
from raypipe.sources.quarantine import quarantine_schema
from raypipe.sources.sqlite.schema import SCHEMA, Shape
from raypipe.sources.sqlite.spool import Text


@dataclass(frozen=True, kw_only=True)
class Parked:
    """A row that was put into quarantine, or released.

    Attributes:
        op: READ or INSERT when parked, DELETE when released.
        ordinal: Of the change that did it.
        table: It belongs to.
        key: JSON list of the SQL literals of its key.
        column: First column that does not fit.
        reason: Why, without the value.
        row: JSON object, from column to SQL literal: the whole row, without loss.
    """

    op: Op
    ordinal: int
    table: str
    key: str
    column: str
    reason: str
    row: str


def quarantine_batch(instance: str, commit: int, emptied_at: int | None, parked: Sequence[Parked]) -> ChangeBatch:
    """Changes of the quarantine table.

    Args:
        instance: Name.
        commit: Of all of them.
        emptied_at: Ordinal of a TRUNCATE that precedes them, None for none.
        parked: In order.
    """
    schema = quarantine_schema(instance, SCHEMA, text="TEXT", json="JSON")
    head = [] if emptied_at is None else [(Op.TRUNCATE, emptied_at, *[None] * len(schema.columns))]
    rows = head + [(row.op, row.ordinal, row.table, row.key, row.column, row.reason, row.row) for row in parked]
    ops, ordinals, *values = zip(*rows, strict=True)
    columns = {
        OP: pa.array([int(op) for op in ops], pa.int8()),
        IMAGE: pa.array([int(Image.FULL)] * len(rows), pa.int8()),
        COMMIT: pa.array([commit] * len(rows), pa.int64()),
        ORDINAL: pa.array(ordinals, pa.int64()),
        TIME: pa.nulls(len(rows), pa.timestamp("us", tz="UTC")),
    }
    arrays = [*columns.values(), *(pa.array(column, pa.string()) for column in values)]
    return ChangeBatch(schema, pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(schema)))


def literal(value: object) -> str:
    """The SQL literal that means a value exactly as ``sqlite3`` gave it, with text as ``Text``."""
    if value is None:
        return "NULL"
    if isinstance(value, Text):
        return _text_literal(value)
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    text = repr(value)
    return {"inf": "9e999", "-inf": "-9e999"}.get(text, text)


def _text_literal(value: Text) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return f"CAST(X'{value.hex()}' AS TEXT)"
    return "'" + text.replace("'", "''") + "'"


def reason_of(value: object, declared: str) -> str:
    """Why a value does not fit, in words that do not give it away."""
    if value is None:
        return "the primary key is NULL"
    if isinstance(value, Text):
        storage = "text"
    else:
        storage = {int: "integer", float: "real", bytes: "blob"}.get(type(value), "value")
    return f"a {storage} that does not fit the declared type {declared or 'none'}"


def row_key(shape: Shape, values: dict[str, object], rowid: object) -> str:
    """Names a row of its table, even one without a usable key."""
    if shape.key and all(values[name] is not None for name in shape.key):
        return json.dumps([literal(values[name]) for name in shape.key])
    return json.dumps([f"rowid {rowid}"])


def row_text(values: dict[str, object]) -> str:
    """The whole row as JSON, from column to SQL literal."""
    return json.dumps({name: literal(value) for name, value in values.items()}, ensure_ascii=False)
