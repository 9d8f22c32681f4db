"""Reduces a batch of changes to what a store has to do: the last image of each key, or the net weight of each row.

Everything here is pure and works by column: NumPy for the small system columns, Arrow's hash grouping for keys of any
type but lists and structs, which are no keys. Two values are the same key (or the same row of a multiset) when SQL's
``IS NOT DISTINCT FROM`` says so: NULL equals NULL, NaN equals NaN, and -0.0 equals 0.0, also within lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import InvariantBroken
from raypipe.model import BRANCH, COMMIT, IMAGE, OP, ORDINAL, ChangeBatch, Image, Op, TableSchema
from raypipe.sinks.nested import codes, converted, is_nested, retyped

WEIGHT = "_raypipe_weight"

_ROW = "_raypipe_row"
_WEIGHT_OF_OP = np.array([op.weight for op in Op], dtype=np.int64)
_BITS_OF_FLOAT = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}

_Mask = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class KeyedNet:
    """What a batch does to a table with a key. Apply in this order: truncates, deletes, upserts.

    Attributes:
        truncated: Branches (0 for a relation without) whose stored rows all go.
        upserts: Rows present afterwards, in source order, one for each identity: ``BRANCH`` if the relation has
            branches, then its columns.
        deletes: Identities absent afterwards, in source order: ``BRANCH`` likewise, then the key columns. No identity
            is in both.
    """

    truncated: frozenset[int]
    upserts: pa.Table
    deletes: pa.Table


@dataclass(frozen=True, kw_only=True)
class MultisetNet:
    """What a batch does to a table without a key. Apply the truncates first.

    Attributes:
        truncated: Branches whose stored rows all go.
        weights: Distinct rows (``BRANCH`` if there are branches, then the columns) and ``WEIGHT`` (int64): copies to
            add, or to remove if negative, never 0. Zeros are 0.0 and NaNs are one NaN, whatever their bits were.
    """

    truncated: frozenset[int]
    weights: pa.Table


def identity_columns(schema: TableSchema) -> list[str]:
    """Names that identify a row in a store: ``BRANCH`` if the relation has branches, then the key."""
    return [*_branch_column(schema), *schema.key]


def stored_columns(schema: TableSchema) -> list[str]:
    """Names a store keeps of a present row: ``BRANCH`` if the relation has branches, then the columns."""
    return [*_branch_column(schema), *schema.names]


def net_keyed(batch: ChangeBatch) -> KeyedNet:
    """The last image of each (branch, key) decides: present is an upsert, absent a delete.

    Changes of a branch before its last TRUNCATE leave nothing. A before image whose key is written again later in
    the batch is no delete. Source order must be the order of the batch, also within a transaction.

    Raises:
        InvariantBroken: the relation has no key, or an image that stays is not a full one.
    """
    schema = batch.schema
    if not schema.key:
        raise InvariantBroken(f"{schema.table} has no key and cannot be netted by key.")
    truncated, alive = _truncates(batch)
    weights = _WEIGHT_OF_OP[_system(batch, OP)]
    identity = identity_columns(schema)
    last = _last_of_each(batch.rows.select(identity), np.flatnonzero(alive & (weights != 0)))
    present = last[weights[last] > 0]
    if (_system(batch, IMAGE)[present] != Image.FULL).any():
        raise InvariantBroken(f"An image of {schema.table} that is present after its change is not a full one.")
    return KeyedNet(
        truncated=truncated,
        upserts=_table(_take(batch.rows.select(stored_columns(schema)), present)),
        deletes=_table(_take(batch.rows.select(identity), last[weights[last] < 0])),
    )


def net_multiset(batch: ChangeBatch) -> MultisetNet:
    """Adds up the weights of equal rows; rows that cancel out disappear.

    Raises:
        InvariantBroken: an image is not a full one.
    """
    schema = batch.schema
    truncated, alive = _truncates(batch)
    weights = _WEIGHT_OF_OP[_system(batch, OP)]
    counted = np.flatnonzero(alive & (weights != 0))
    if (_system(batch, IMAGE)[counted] != Image.FULL).any():
        raise InvariantBroken(f"{schema.table} has no key, so every image of it must be a full one.")
    names = stored_columns(schema)
    rows = _table(_comparable(_take(batch.rows.select(names), counted)))
    rows = rows.append_column(WEIGHT, pa.array(weights[counted]))
    nested = [name for name in names if is_nested(rows.schema.field(name).type)]
    grouped, wanted = rows, [(WEIGHT, "sum")]
    if nested:  # each group's first row tells the values that the codes stand for
        grouped, wanted = rows.append_column(_ROW, pa.array(np.arange(rows.num_rows))), [*wanted, (_ROW, "min")]
    for name in nested:
        grouped = grouped.set_column(names.index(name), name, codes(rows[name].combine_chunks()))
    summed = grouped.group_by(names, use_threads=False).aggregate(wanted)
    columns = [rows[name].take(summed[f"{_ROW}_min"]) if name in nested else summed[name] for name in names]
    net = pa.table([*columns, summed[f"{WEIGHT}_sum"]], schema=rows.schema)
    return MultisetNet(truncated=truncated, weights=net.filter(pc.not_equal(net[WEIGHT], 0)))


def last_of_each(identity: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Row numbers, ascending, of the last row of each distinct identity."""
    return _last_of_each(identity, np.arange(identity.num_rows))


def history_rows(batch: ChangeBatch) -> pa.Table:
    """Rows for a history table: system columns first, then (``BRANCH`` and) the relation's columns, in source order.

    An update that keeps its key is one row, ``UPDATE_AFTER``. Any other before image (the key changed, the row left
    the view, the relation has no key) becomes a ``DELETE``, so that the row's end is on record too.
    """
    ops = _system(batch, OP)
    replaced = _followed_by_its_after_image(batch, ops)
    recorded = np.where((ops == Op.UPDATE_BEFORE), np.int8(Op.DELETE), ops)
    rows = _table(batch.rows)
    place = rows.schema.get_field_index(OP)
    rows = rows.set_column(place, rows.schema.field(place), pa.array(recorded, pa.int8()))
    return rows.filter(pa.array(~replaced)) if replaced.any() else rows


def drop_awaited(batch: ChangeBatch, awaiting: frozenset[int]) -> tuple[ChangeBatch, frozenset[int]]:
    """Leaves out changes of awaited branches up to their first TRUNCATE, which ends the waiting.

    Args:
        batch: Changes in source order.
        awaiting: Branches not loaded yet (0 for a relation without branches).

    Returns:
        The changes that count, and the branches still awaited after them.
    """
    if not awaiting:
        return batch, awaiting
    branches, truncate = _branches(batch), _system(batch, OP) == Op.TRUNCATE
    counts = np.ones(batch.num_rows, dtype=np.bool_)
    still = set(awaiting)
    for branch in awaiting:
        mine = branches == branch
        begins = np.flatnonzero(mine & truncate)
        if begins.size:
            still.discard(branch)
            mine[begins[0] :] = False
        counts &= ~mine
    rows = batch.rows if counts.all() else batch.rows.filter(pa.array(counts))
    return ChangeBatch(schema=batch.schema, rows=rows), frozenset(still)


def _branch_column(schema: TableSchema) -> tuple[str, ...]:
    return (BRANCH,) if schema.branches > 1 else ()


def _system(batch: ChangeBatch, name: str) -> npt.NDArray[Any]:
    column: npt.NDArray[Any] = batch.rows.column(name).to_numpy(zero_copy_only=False)
    return column


def _branches(batch: ChangeBatch) -> npt.NDArray[Any]:
    return _system(batch, BRANCH) if batch.schema.branches > 1 else np.zeros(batch.num_rows, dtype=np.int8)


def _truncates(batch: ChangeBatch) -> tuple[frozenset[int], _Mask]:
    """Branches truncated by the batch, and which rows come after the last TRUNCATE of their branch."""
    alive = np.ones(batch.num_rows, dtype=np.bool_)
    truncates = np.flatnonzero(_system(batch, OP) == Op.TRUNCATE)
    if not truncates.size:
        return frozenset(), alive
    branches = _branches(batch)
    last_truncate = {int(branches[at]): int(at) for at in truncates}  # ascending, so the last one stays
    for branch, at in last_truncate.items():
        alive[: at + 1] &= branches[: at + 1] != branch
    return frozenset(last_truncate), alive


def _last_of_each(identity: pa.RecordBatch, candidates: _Indices) -> _Indices:
    """Row numbers, ascending, of the last candidate of each distinct identity."""
    rows = _table(_comparable(_take(identity, candidates))).append_column(_ROW, pa.array(candidates))
    grouped = rows.group_by(identity.schema.names, use_threads=False).aggregate([(_ROW, "max")])
    return np.sort(grouped[f"{_ROW}_max"].to_numpy())


def _followed_by_its_after_image(batch: ChangeBatch, ops: npt.NDArray[Any]) -> _Mask:
    """Which before images stand right before the after image of the same change with the same key."""
    followed = np.zeros(batch.num_rows, dtype=np.bool_)
    if not batch.schema.key:
        return followed
    followed[:-1] = (ops[:-1] == Op.UPDATE_BEFORE) & (ops[1:] == Op.UPDATE_AFTER)
    for system in (_system(batch, COMMIT), _system(batch, ORDINAL), _branches(batch)):
        followed[:-1] &= system[:-1] == system[1:]
    befores = np.flatnonzero(followed)
    keys = _comparable(batch.rows.select(batch.schema.key))
    before, after = keys.take(pa.array(befores)), keys.take(pa.array(befores + 1))
    for left, right in zip(before.columns, after.columns, strict=True):
        followed[befores] &= _not_distinct(left, right)
    return followed


def _not_distinct(left: pa.Array, right: pa.Array) -> _Mask:
    """SQL's ``IS NOT DISTINCT FROM`` on comparable columns (see ``_comparable``)."""
    if pa.types.is_floating(left.type):  # as bits, so that NaN equals NaN
        bits = _BITS_OF_FLOAT[left.type.bit_width]
        left, right = left.view(bits), right.view(bits)
    both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    equal: _Mask = pc.or_(pc.fill_null(pc.equal(left, right), False), both_null).to_numpy(zero_copy_only=False)
    return equal


def _comparable(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with equal values made equal bytes, which is what Arrow groups by."""
    for place, field in enumerate(rows.schema):
        plain = retyped(field.type, lambda leaf: leaf.value_type if pa.types.is_dictionary(leaf) else leaf)
        if plain != field.type or _holds_floats(plain):
            column = converted(rows.column(place), plain, _comparable_leaf)
            rows = rows.set_column(place, pa.field(field.name, plain), column)
    return rows


def _holds_floats(plain: pa.DataType) -> bool:
    if is_nested(plain):
        return any(_holds_floats(plain.field(place).type) for place in range(plain.num_fields))
    return bool(pa.types.is_floating(plain))


def _comparable_leaf(column: pa.Array, plain: pa.DataType) -> pa.Array:
    if pa.types.is_floating(plain):
        positive_zero = pc.add(column, pa.scalar(0.0, plain))  # -0.0 + 0.0 is 0.0
        return pc.if_else(pc.is_nan(positive_zero), pa.scalar(float("nan"), plain), positive_zero)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _take(rows: pa.RecordBatch, ascending: _Indices) -> pa.RecordBatch:
    """The rows of ascending, distinct indices; copies nothing if they are all rows."""
    return rows if ascending.size == rows.num_rows else rows.take(pa.array(ascending))


def _table(rows: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([rows])
