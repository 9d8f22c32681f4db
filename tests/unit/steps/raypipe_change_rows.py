"""Batches of changes, written as rows, for tests of steps."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from raypipe.model import BRANCH, COMMIT, IMAGE, OP, ORDINAL, ChangeBatch, Column, Image, Op, TableName, TableSchema

ORDERS = TableSchema(
    table=TableName("shop", "main", "orders"),
    columns=(
        Column(name="id", type=pa.int64()),
        Column(name="status", type=pa.string()),
        Column(name="amount", type=pa.int64()),
        Column(name="tags", type=pa.list_(pa.string())),
    ),
    key=("id",),
)
KEY = Image.KEY


def change(
    op: Op, image: Image = Image.FULL, ordinal: int | None = None, branch: int = 0, **row: Any
) -> dict[str, Any]:
    """One row image; its ordinal is its place in the batch unless given."""
    return {OP: op, IMAGE: image, ORDINAL: ordinal, BRANCH: branch, **row}


def batch(*changes: dict[str, Any], schema: TableSchema = ORDERS, commit: int = 7) -> ChangeBatch:
    """Changes of one transaction."""
    rows = [{**row, COMMIT: commit} for row in changes]
    for place, row in enumerate(rows):
        row[ORDINAL] = place if row[ORDINAL] is None else row[ORDINAL]
    arrow = ChangeBatch.arrow_schema(schema)
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in arrow]
    return ChangeBatch(schema, pa.RecordBatch.from_arrays(arrays, schema=arrow))


def told(made: ChangeBatch) -> list[tuple[Any, ...]]:
    """What a batch says: (op, [branch,] columns …) by row."""
    names = [OP, *([BRANCH] if made.schema.branches > 1 else []), *made.schema.names]
    return [(Op(row[OP]).name, *(row[name] for name in names[1:])) for row in made.rows.to_pylist()]
