"""What a stateful step tells those below it: its weighted changes as batches, one change for each key and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.contracts import WEIGHT
from raypipe.errors import InvariantBroken
from raypipe.model import ChangeBatch, Cut, Image, Op, TableSchema
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.scope import quote
from raypipe.steps.views.multiset import told_by_bytes

# Row images in one batch: what sinks and the steps below take at once.
_BATCH_ROWS = 1 << 16


def told(schema: TableSchema, changes: pa.Table, cut: Cut, sandbox: Sandbox, *, anew: bool) -> Iterator[ChangeBatch]:
    """Change batches in an order that depends on nothing but the changes.

    With a key: for each key what was there, then what is there, an update if both. Without: what goes, then what comes.
    All of them have the cut's number as their commit, its moment as their time, and count up from 0.

    Args:
        schema: Of the view.
        changes: Weighted rows, each different row once.
        cut: That the epoch ends at.
        sandbox: To sort in.
        anew: The changes are all rows that there are: a TRUNCATE comes first.

    Raises:
        InvariantBroken: the key does not tell the rows apart.
    """
    if anew:
        nothing = pa.table({column.name: pa.nulls(1, column.type) for column in schema.columns}, schema.arrow())
        yield _batch(schema, nothing, np.array([Op.TRUNCATE], np.int8), np.zeros(1, np.int64), cut)
    if not changes.num_rows:
        return
    begins = 1 if anew else 0
    rows, ops, ordinals = _keyed(schema, changes, sandbox) if schema.key else _unkeyed(changes, sandbox)
    for start, end in _bounds(ops):
        part = slice(start, end)
        yield _batch(schema, rows.slice(start, end - start), ops[part], ordinals[part] + begins, cut)


def _keyed(schema: TableSchema, changes: pa.Table, sandbox: Sandbox) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    rows, places = _by_bytes(schema, changes) if _sorts(schema) else _by_statement(schema, changes, sandbox)
    weights = rows.column(WEIGHT).to_numpy()
    same = places[1:] == places[:-1]
    paired = same & (weights[1:] == 1) & (weights[:-1] == -1)
    if (np.abs(weights) != 1).any() or (same & ~paired).any():
        raise InvariantBroken(
            f"Step {schema.table} has rows that its key ({', '.join(schema.key)}) does not tell apart.",
            remedy="Report this; giving the sink's table a key of its own may help meanwhile.",
            step=str(schema.table),
        )
    ops = np.where(weights > 0, np.int8(Op.INSERT), np.int8(Op.DELETE))
    before = np.flatnonzero(paired)
    ops[before] = Op.UPDATE_BEFORE
    ops[before + 1] = Op.UPDATE_AFTER
    return rows.drop_columns([WEIGHT]), ops, places


def _sorts(schema: TableSchema) -> bool:
    """Whether Arrow sorts the key's types as DuckDB does."""
    return told_by_bytes(pa.schema([schema.arrow().field(name) for name in schema.key]))


def _by_bytes(schema: TableSchema, changes: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Rows in the order of their keys, what goes before what comes, and the ordinal of each row's key."""
    order = [(name, "ascending") for name in (*schema.key, WEIGHT)]  # NULL comes last, as in DuckDB
    rows = changes.take(pc.sort_indices(changes, sort_keys=order)).combine_chunks()
    begins = np.ones(rows.num_rows, np.bool_)
    begins[1:] = False
    for name in schema.key:
        column = _joined(rows.column(name))
        before, after = column.slice(0, rows.num_rows - 1), column.slice(1)
        differ = pc.not_equal(after, before)
        if column.null_count:
            differ = pc.fill_null(differ, pc.xor(after.is_null(), before.is_null()))
        begins[1:] |= differ.to_numpy(zero_copy_only=False)
    return rows, np.cumsum(begins) - 1


def _by_statement(schema: TableSchema, changes: pa.Table, sandbox: Sandbox) -> tuple[pa.Table, np.ndarray]:
    """The same where only DuckDB knows."""
    keys = ", ".join(quote(name) for name in schema.key)
    rows = sandbox.run(
        f"SELECT *, dense_rank() OVER (ORDER BY {keys}) - 1 AS _raypipe_place FROM _raypipe_told "
        f"ORDER BY _raypipe_place, {WEIGHT}",
        {"_raypipe_told": changes},
    )
    return rows.drop_columns(["_raypipe_place"]), rows.column("_raypipe_place").to_numpy()


def _unkeyed(changes: pa.Table, sandbox: Sandbox) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    rows = sandbox.run(
        f"SELECT * FROM _raypipe_told ORDER BY {WEIGHT} > 0, ALL".replace(", ALL", _everything(changes)),
        {"_raypipe_told": changes},
    )
    weights = rows.column(WEIGHT).to_numpy()
    repeated = np.repeat(np.arange(len(weights)), np.abs(weights))
    ops = np.where(weights > 0, np.int8(Op.INSERT), np.int8(Op.DELETE))[repeated]
    return rows.drop_columns([WEIGHT]).take(pa.array(repeated)), ops, np.arange(len(repeated))


def _everything(changes: pa.Table) -> str:
    return "".join(f", {quote(name)}" for name in changes.column_names)


def _bounds(ops: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where batches begin and end; the two images of an update stay together."""
    start = 0
    while start < len(ops):
        end = min(start + _BATCH_ROWS, len(ops))
        if end < len(ops) and ops[end] == Op.UPDATE_AFTER:
            end += 1
        yield start, end
        start = end


def _batch(schema: TableSchema, rows: pa.Table, ops: np.ndarray, ordinals: np.ndarray, cut: Cut) -> ChangeBatch:
    count = len(ops)
    moment = pa.scalar(datetime.fromtimestamp(cut.at, UTC), pa.timestamp("us", "UTC"))
    columns = [
        pa.array(ops, pa.int8()),
        pa.array(np.full(count, Image.FULL, np.int8)),
        pa.array(np.full(count, cut.number, np.int64)),
        pa.array(ordinals.astype(np.int64)),
        pa.repeat(moment, count),
        *(_joined(rows.column(column.name)).cast(column.type) for column in schema.columns),
    ]
    return ChangeBatch(schema, pa.RecordBatch.from_arrays(columns, schema=ChangeBatch.arrow_schema(schema)))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
