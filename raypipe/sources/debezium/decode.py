"""Envelopes to changes, by column: one DuckDB query over the messages of a table, then Arrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import Corrupt, SchemaMismatch
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Image, Op, TableSchema
from raypipe.sources.debezium.fields import Field
from raypipe.sources.debezium.shape import Shape, Style, no_envelope
from raypipe.sources.debezium.values import finished, json_type, reading

_LETTERS = ("c", "r", "u", "d", "t")


@dataclass(kw_only=True)
class Messages:
    """What was read of a topic, in the order in which it was read.

    Attributes:
        keys: Of each message; None for none.
        values: Of each; None for a tombstone.
        stamps: Timestamp of each, milliseconds since 1970.
        partitions: Of each.
        offsets: Of each.
        places: Of each in the piece, over all topics.
        payloads: The values without embedded schemas: envelopes; NULL for a tombstone.
        schemas: The first message of each embedded schema, and the bytes that stand for the schema.
        header: raypipe's schema in the newest message that has one, and that message's timestamp.
    """

    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    payloads: pa.Array | None = None
    schemas: list[tuple[int, bytes]] = field(default_factory=list)
    header: tuple[bytes, int] | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a decoder needs to know of a table.

    Attributes:
        topic: For messages.
        shape: Of its rows.
        schema: Of its batches.
        until: For each partition the offset before which messages belong to a load, None if there is none.
        emptied: A TRUNCATE stands before the messages already.
        partitions: Of the topic.
        deleted: For partitions whose last message was a delete: digest of its key.
        whole_before: ``before`` holds the whole row.
    """

    topic: str
    shape: Shape
    schema: TableSchema
    until: tuple[int, ...] | None
    emptied: bool
    partitions: int
    deleted: Mapping[int, str]
    whole_before: bool


@dataclass(frozen=True, kw_only=True)
class _Read:
    """Messages as columns; every array has one entry for each message."""

    ops: npt.NDArray[np.object_]
    full: npt.NDArray[np.bool_]
    has_after: npt.NDArray[np.bool_]
    times: pa.Array
    images: Mapping[str, pa.Array]


class Decoder:
    """For one thread: the DuckDB connection that does the work is its own."""

    def __init__(self) -> None:
        self._made: duckdb.DuckDBPyConnection | None = None

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def decode(
        self, table: Table, messages: Messages, keys: pa.Array, commit: int
    ) -> tuple[ChangeBatch | None, dict[int, str]]:
        """The changes of a table in order, and for which partitions the last message was a delete.

        Args:
            table: That the messages are of.
            messages: As read, with their payloads.
            keys: The keys' payloads.
            commit: Number of the piece.

        Raises:
            Corrupt: a message is no JSON.
            SchemaMismatch: a message is no envelope, or holds a value that its column has no place for.
        """
        payloads = messages.payloads
        assert payloads is not None
        read = self._read(table, messages, keys, payloads)
        partitions = np.array(messages.partitions)
        loading = _before(table.until, partitions, np.array(messages.offsets))
        tombstones = payloads.is_null().to_numpy(zero_copy_only=False)
        repeats, deleted = _repeats(read.ops, tombstones, partitions, keys, table.deleted)
        self._check(table, read, tombstones)
        first = _last_truncate(read.ops, loading)
        emptying = read.ops == "t"
        if first >= 0:
            emptying[first] = not table.emptied
        has_before = (np.isin(read.ops, ("u", "d")) | (tombstones & ~repeats & bool(table.shape.key))) | emptying
        has_after = np.isin(read.ops, ("c", "r", "u"))
        kept = np.arange(len(messages)) >= first
        has_before, has_after = has_before & kept, has_after & kept
        rows = _images(table, messages, read, has_before, has_after, loading, keys, commit)
        return (ChangeBatch(schema=table.schema, rows=rows) if rows.num_rows else None), deleted

    def _read(self, table: Table, messages: Messages, keys: pa.Array, payloads: pa.Array) -> _Read:
        given = pa.table(
            {
                "key": keys.cast(pa.string()),
                "value": payloads.cast(pa.string()),
                "stamp": pa.array(messages.stamps, pa.int64()),
                "place": pa.array(np.arange(len(messages))),
            }
        )
        with_before = table.whole_before or not table.shape.key or table.shape.style is Style.RAYPIPE
        found = self._run(_sql(table.shape, with_before, table.whole_before or not table.shape.key), given, table)
        images: dict[str, pa.Array] = {}
        for side in _sides(table.shape, with_before):
            for number, each in _columns(table.shape, side):
                values = finished(each, _flat(found.column(f"{side}{number}")))
                _require_fitting(values, _flat(found.column(f"has_{side}{number}")), each.name, table)
                images[f"{side}.{each.name}"] = values
        return _Read(
            ops=found.column("op").to_numpy(),
            full=found.column("full").to_numpy(),
            has_after=found.column("has_after").to_numpy(),
            times=_flat(found.column("time")).cast(pa.int64()).view(pa.timestamp("us", "UTC")),
            images=images,
        )

    def _run(self, sql: str, given: pa.Table, table: Table) -> pa.Table:
        if self._made is None:
            self._made = duckdb.connect(":memory:", config={"threads": 1})
            self._made.execute("SET TimeZone = 'UTC'")
        self._made.register("given", given)
        try:
            return self._made.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            told = RuntimeError(type(error).__name__)  # DuckDB's own words would show the message
            raise Corrupt(
                f"A message of topic {table.topic} is no JSON.",
                remedy="Use the JsonConverter for keys and values.",
                cause=told,
                topic=table.topic,
            ) from None
        finally:
            self._made.unregister("given")

    def _check(self, table: Table, read: _Read, tombstones: npt.NDArray[np.bool_]) -> None:
        known = np.isin(read.ops, _LETTERS)
        if not (known | tombstones).all():
            raise no_envelope(table.topic)
        if table.partitions > 1 and (read.ops == "t").any():
            raise SchemaMismatch(
                f"Topic {table.topic} has a TRUNCATE and several partitions: which rows it emptied cannot be told.",
                remedy="Have one partition for tables that are truncated, or leave Debezium's skipped.operations at t.",
                topic=table.topic,
            )
        if (np.isin(read.ops, ("c", "r", "u")) & ~read.has_after).any():
            raise no_envelope(table.topic)
        if not table.shape.key and (np.isin(read.ops, ("u", "d")) & ~read.full).any():
            raise SchemaMismatch(
                f"Table {table.schema.table} has no key, and topic {table.topic} does not always say which row went.",
                remedy="Give the table a primary key, or have the database tell whole rows (REPLICA IDENTITY FULL).",
                topic=table.topic,
            )


def _before(
    until: tuple[int, ...] | None, partitions: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    if until is None:
        return np.zeros(len(offsets), dtype=bool)
    return offsets < np.array(until)[partitions]


def _last_truncate(ops: npt.NDArray[np.object_], loading: npt.NDArray[np.bool_]) -> int:
    """In a load, what lies before a TRUNCATE comes to nothing; its place, -1 for none."""
    found = np.flatnonzero((ops == "t") & loading)
    return int(found[-1]) if len(found) else -1


def _repeats(
    ops: npt.NDArray[np.object_],
    tombstones: npt.NDArray[np.bool_],
    partitions: npt.NDArray[np.int64],
    keys: pa.Array,
    before: Mapping[int, str],
) -> tuple[npt.NDArray[np.bool_], dict[int, str]]:
    """Tombstones right behind the delete they belong to, and what the next piece needs to know of the last deletes.

    A tombstone that stands alone is a delete of its own: compaction took away the message that said so.
    """
    order = np.argsort(partitions, kind="stable")
    sorted_keys = keys.take(pa.array(order))
    same = np.zeros(len(order), dtype=bool)
    if len(order) > 1:
        equal = pc.fill_null(pc.equal(sorted_keys.slice(0, len(order) - 1), sorted_keys.slice(1)), False)
        same[1:] = equal.to_numpy(zero_copy_only=False) & (partitions[order[1:]] == partitions[order[:-1]])
        same[1:] &= ops[order[:-1]] == "d"
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
        if ops[last] == "d":
            deleted[partition] = _digest(keys[last].as_py())
    return repeats, deleted


def _digest(key: bytes | None) -> str:
    return hashlib.sha256(key or b"").hexdigest()[:16]


def _images(
    table: Table,
    messages: Messages,
    read: _Read,
    has_before: npt.NDArray[np.bool_],
    has_after: npt.NDArray[np.bool_],
    loading: npt.NDArray[np.bool_],
    keys: pa.Array,
    commit: int,
) -> pa.RecordBatch:
    """Of each message the image before, then the one after; a TRUNCATE has an empty one before."""
    count = len(messages)
    kept = np.column_stack([has_before, has_after]).ravel()
    sides = np.column_stack([np.arange(count), np.arange(count) + count]).ravel()[kept]
    change = np.repeat(np.arange(count), 2)[kept]
    is_after = sides >= count
    letters = read.ops[change]
    fresh = is_after & ((letters == "r") | ((letters == "c") & loading[change]))
    ops = np.select(
        [letters == "t", fresh, letters == "c", letters == "u"],
        [Op.TRUNCATE, Op.READ, Op.INSERT, np.where(is_after, Op.UPDATE_AFTER, Op.UPDATE_BEFORE)],
        Op.DELETE,
    )
    by_key = ~is_after & ~read.full[change] & (letters != "t")
    places = np.array(messages.places)[change]
    if _distinct(table, keys, change[fresh]):
        places = _shared(places, fresh)
    columns: dict[str, pa.Array] = {
        OP: pa.array(ops, pa.int8()),
        IMAGE: pa.array(np.where(by_key, Image.KEY, Image.FULL), pa.int8()),
        COMMIT: pa.array(np.full(len(ops), commit), pa.int64()),
        ORDINAL: pa.array(places, pa.int64()),
        TIME: read.times.take(pa.array(change)),
    }
    full, taken = pa.array(read.full), pa.array(sides)
    for each in table.shape.fields:
        after = read.images[f"a.{each.name}"]
        key = read.images.get(f"k.{each.name}", pa.nulls(count, after.type))
        whole = read.images.get(f"b.{each.name}")
        before = key if whole is None else pc.if_else(full, whole, key)
        columns[each.name] = pa.concat_arrays([before, after]).take(taken)
    schema = ChangeBatch.arrow_schema(table.schema)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _distinct(table: Table, keys: pa.Array, rows: npt.NDArray[np.int64]) -> bool:
    return not table.shape.key or bool(pc.count_distinct(keys.take(pa.array(rows))).as_py() == len(rows))


def _shared(places: npt.NDArray[np.int64], fresh: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Rows that a load finds one after the other lie at one place."""
    follows = np.zeros(len(fresh), dtype=bool)
    follows[1:] = fresh[1:] & fresh[:-1]
    begins = np.maximum.accumulate(np.where(follows, 0, np.arange(len(fresh))))
    return places[begins]


def _require_fitting(values: pa.Array, there: pa.Array, column: str, table: Table) -> None:
    if values.null_count == 0 or not pc.any(pc.and_(values.is_null(), there)).as_py():
        return
    raise SchemaMismatch(
        f"Column {column} of topic {table.topic} holds a value that its type {values.type} has no place for.",
        remedy=(
            f"Have the column carried as text: add text_columns={table.schema.table.table}.{column} to the source's"
            " URL, and run with a new log. Decimals in bare JSON numbers need decimal.format=BASE64."
        ),
        topic=table.topic,
        column=column,
    )


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _sides(shape: Shape, with_before: bool) -> list[str]:
    return ["a", *(["b"] if with_before else []), *(["k"] if shape.key else [])]


def _columns(shape: Shape, side: str) -> list[tuple[int, Field]]:
    return [(n, each) for n, each in enumerate(shape.fields) if side != "k" or each.name in shape.key]


@lru_cache(256)
def _sql(shape: Shape, with_before: bool, trusted: bool) -> str:
    """Of the query over ``given``: one row for each message, in order."""
    image = _structure({each.name: json_type(each.form) for _, each in _columns(shape, "a")})
    key = _structure({each.name: json_type(each.form) for _, each in _columns(shape, "k")})
    parts = {"after": image, "op": '"VARCHAR"', "ts_ms": '"BIGINT"'}
    parts["source"] = '{"ts_ms":"BIGINT","ts_us":"BIGINT","before_image":"TINYINT"}'
    if with_before:
        parts["before"] = image
    envelope = "{" + ",".join(f'"{name}":{type_}' for name, type_ in parts.items()) + "}"
    sources = {"a": "read.after", "b": "read.before", "k": "row_key"}
    columns = [
        "read.op AS op",
        "read.after IS NOT NULL AS has_after",
        "coalesce(read.source.ts_us, 1000 * read.source.ts_ms, 1000 * read.ts_ms, 1000 * stamp) AS time",
    ]
    if not with_before:
        columns.append("FALSE AS full")
    elif shape.style is Style.RAYPIPE:
        columns.append(
            f"read.before IS NOT NULL AND coalesce(read.source.before_image = {Image.FULL:d}, FALSE) AS full"
        )
    else:
        columns.append(f"read.before IS NOT NULL AND {trusted} AS full")
    for side in _sides(shape, with_before):
        for number, each in _columns(shape, side):
            value = f"{sources[side]}.{_quoted(each.name)}"
            columns.append(f"{reading(each, value)} AS {side}{number}, {value} IS NOT NULL AS has_{side}{number}")
    keyed = f"from_json(key, {_literal(key)})" if shape.key else "NULL"
    return (
        f"SELECT {', '.join(columns)} FROM (SELECT place, stamp, from_json(value, {_literal(envelope)}) AS read,"
        f" {keyed} AS row_key FROM given) ORDER BY place"
    )


def _structure(types: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{_text(name)}:{_text(type_)}" for name, type_ in types.items()) + "}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
