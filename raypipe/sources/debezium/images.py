"""Parsed messages to changes: which images each one has, in order, and what comes to nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SchemaMismatch
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Image, Op, TableSchema
from raypipe.sources.debezium.parse import Format
from raypipe.sources.debezium.shape import no_envelope

# Codes of Debezium's letters.
_C, _R, _U, _D, _T = map(ord, "crudt")
_TOMBSTONE = 0
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Messages of a table in the order in which they are told.

    Attributes:
        rows: Chunks of its partitions, one after the other, as one.
        partitions: Of each message.
        places: Of each in the piece, over all tables.
    """

    rows: pa.Table
    partitions: Numbers
    places: Numbers


@dataclass(frozen=True, kw_only=True)
class Table:
    """What there is to know of a table.

    Attributes:
        format: Of its messages.
        schema: Of its batches.
        until: For each partition the offset before which messages belong to a load, None if there is none.
        emptied: A TRUNCATE stands before the messages already.
        partitions: Of the topic.
        deleted: For partitions whose last message was a delete: digest of its key.
    """

    format: Format
    schema: TableSchema
    until: tuple[int, ...] | None
    emptied: bool
    partitions: int
    deleted: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What messages come to.

    Attributes:
        batch: Changes in order; rows whose values do not fit are among them, with NULLs in those places.
        misfits: For each image the place of its first column that does not fit, -1 if all do; None if all images fit.
        deleted: See ``Table``, after the messages.
    """

    batch: ChangeBatch | None
    misfits: npt.NDArray[np.int32] | None
    deleted: dict[int, str]


def changes(table: Table, taken: Taken, commit: int) -> Told:
    """The changes of a table in order.

    Args:
        table: That the messages are of.
        taken: They.
        commit: Number of the piece.

    Raises:
        SchemaMismatch: a message is no envelope, or does not say which row went.
    """
    rows = taken.rows
    ops = rows.column("op").to_numpy()
    tombstones = ops == _TOMBSTONE
    loading = _before(table.until, taken)
    keys = rows.column("key").combine_chunks()
    repeats, deleted = _repeats(ops, tombstones, taken.partitions, keys, table.deleted)
    _check(table, rows, ops)
    first = _last_truncate(ops, loading)
    emptying = ops == _T
    if first >= 0:
        emptying[first] = not table.emptied
    keyed = bool(table.format.shape.key)
    has_before = (np.isin(ops, (_U, _D)) | (tombstones & ~repeats & keyed)) | emptying
    has_after = np.isin(ops, (_C, _R, _U))
    kept = np.arange(len(ops)) >= first
    batch, misfits = _images(table, taken, ops, has_before & kept, has_after & kept, loading, keys, commit)
    return Told(batch=batch, misfits=misfits, deleted=deleted)


def _check(table: Table, rows: pa.Table, ops: Codes) -> None:
    topic = table.format.topic
    if not np.isin(ops, (_C, _R, _U, _D, _T, _TOMBSTONE)).all():
        raise no_envelope(topic)
    if table.partitions > 1 and (ops == _T).any():
        raise SchemaMismatch(
            f"Topic {topic} has a TRUNCATE and several partitions: which rows it emptied cannot be told.",
            remedy="Have one partition for tables that are truncated, or leave Debezium's skipped.operations at t.",
            topic=topic,
        )
    if (np.isin(ops, (_C, _R, _U)) & ~rows.column("has_after").to_numpy()).any():
        raise no_envelope(topic)
    if not table.format.shape.key and (np.isin(ops, (_U, _D)) & ~rows.column("full").to_numpy()).any():
        raise SchemaMismatch(
            f"Table {table.schema.table} has no key, and topic {topic} does not always say which row went.",
            remedy="Give the table a primary key, or have the database tell whole rows (REPLICA IDENTITY FULL).",
            topic=topic,
        )


def _before(until: tuple[int, ...] | None, taken: Taken) -> Flags:
    offsets = taken.rows.column("offset").to_numpy()
    if until is None:
        return np.zeros(len(offsets), dtype=bool)
    before: Flags = offsets < np.array(until)[taken.partitions]
    return before


def _last_truncate(ops: Codes, loading: Flags) -> int:
    """In a load, what lies before a TRUNCATE comes to nothing; its place, -1 for none."""
    found = np.flatnonzero((ops == _T) & loading)
    return int(found[-1]) if len(found) else -1


def _repeats(
    ops: Codes, tombstones: Flags, partitions: Numbers, keys: pa.Array, before: Mapping[int, str]
) -> tuple[Flags, dict[int, str]]:
    """Tombstones right behind the delete they belong to, and what the next piece needs to know of the last deletes.

    A tombstone that stands alone is a delete of its own: compaction took away the message that said so.
    """
    order = np.argsort(partitions, kind="stable")
    same = np.zeros(len(order), dtype=bool)
    if len(order) > 1 and tombstones.any():
        sorted_keys = keys.take(pa.array(order))
        equal = pc.fill_null(pc.equal(sorted_keys.slice(0, len(order) - 1), sorted_keys.slice(1)), False)
        same[1:] = equal.to_numpy(zero_copy_only=False) & (partitions[order[1:]] == partitions[order[:-1]])
        same[1:] &= ops[order[:-1]] == _D
    repeats = np.zeros(len(order), dtype=bool)
    repeats[order] = same
    repeats &= tombstones
    deleted = dict(before)
    for partition in np.unique(partitions).tolist():
        mine = np.flatnonzero(partitions == partition)
        first, last = int(mine[0]), int(mine[-1])
        if tombstones[first] and deleted.pop(partition, None) == _digest(keys[first].as_py()):
            repeats[first] = True
        deleted.pop(partition, None)
        if ops[last] == _D:
            deleted[partition] = _digest(keys[last].as_py())
    return repeats, deleted


def _digest(key: bytes | None) -> str:
    return hashlib.sha256(key or b"").hexdigest()[:16]


def _images(
    table: Table,
    taken: Taken,
    ops: Codes,
    has_before: Flags,
    has_after: Flags,
    loading: Flags,
    keys: pa.Array,
    commit: int,
) -> tuple[ChangeBatch | None, npt.NDArray[np.int32] | None]:
    """Of each message the image before, then the one after; a TRUNCATE has an empty one before."""
    rows, count = taken.rows, len(ops)
    kept = np.column_stack([has_before, has_after]).ravel()
    if not kept.any():
        return None, None
    sides = np.column_stack([np.arange(count), np.arange(count) + count]).ravel()[kept]
    change = np.repeat(np.arange(count), 2)[kept]
    is_after = sides >= count
    letters = ops[change]
    fresh = is_after & ((letters == _R) | ((letters == _C) & loading[change]))
    kinds = np.select(
        [letters == _T, fresh, letters == _C, letters == _U],
        [Op.TRUNCATE, Op.READ, Op.INSERT, np.where(is_after, Op.UPDATE_AFTER, Op.UPDATE_BEFORE)],
        Op.DELETE,
    )
    full = rows.column("full").to_numpy()
    by_key = ~is_after & ~full[change] & (letters != _T)
    places = taken.places[change]
    if _distinct(table, keys, change[fresh]):
        places = _shared(places, fresh)
    columns: dict[str, pa.Array] = {
        OP: pa.array(kinds, pa.int8()),
        IMAGE: pa.array(np.where(by_key, Image.KEY, Image.FULL), pa.int8()),
        COMMIT: pa.array(np.full(len(kinds), commit), pa.int64()),
        ORDINAL: pa.array(places, pa.int64()),
        TIME: _flat(rows.column("time")).cast(pa.int64()).view(pa.timestamp("us", "UTC")).take(pa.array(change)),
    }
    whole, picked = pa.array(full), pa.array(sides)
    for place, each in enumerate(table.format.shape.fields):
        after = _flat(rows.column(f"a{place}"))
        is_key = each.name in table.format.shape.key
        key = _flat(rows.column(f"k{place}")) if is_key else pa.nulls(count, after.type)
        before = key
        if table.format.with_before:
            before = pc.if_else(whole, _flat(rows.column(f"b{place}")), key)
        columns[each.name] = pa.concat_arrays([before, after]).take(picked)
    schema = ChangeBatch.arrow_schema(table.schema)
    batch = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
    return ChangeBatch(schema=table.schema, rows=batch), _misfits(table, rows, full, letters, sides)


def _misfits(table: Table, rows: pa.Table, full: Flags, letters: Codes, sides: Numbers) -> npt.NDArray[np.int32] | None:
    after, nothing = rows.column("misfit_a").to_numpy(), np.full(len(full), -1, np.int32)
    before = rows.column("misfit_k").to_numpy() if "k" in table.format.sides else nothing
    if table.format.with_before:
        before = np.where(full, rows.column("misfit_b").to_numpy(), before)
    misfits = np.concatenate([before, after])[sides]
    misfits[letters == _T] = -1
    return misfits if (misfits >= 0).any() else None


def has_truncate(parts: Sequence[tuple[int, pa.Table, int]]) -> bool:
    """Whether a TRUNCATE is among messages (partition, chunk, place of the first)."""
    return any(bool((rows.column("op").to_numpy() == _T).any()) for _, rows, _ in parts)


def _distinct(table: Table, keys: pa.Array, rows: Numbers) -> bool:
    return not table.format.shape.key or bool(pc.count_distinct(keys.take(pa.array(rows))).as_py() == len(rows))


def _shared(places: Numbers, fresh: Flags) -> Numbers:
    """Rows that a load finds one after the other lie at one place."""
    follows = np.zeros(len(fresh), dtype=bool)
    follows[1:] = fresh[1:] & fresh[:-1]
    begins = np.maximum.accumulate(np.where(follows, 0, np.arange(len(fresh))))
    return places[begins]


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
