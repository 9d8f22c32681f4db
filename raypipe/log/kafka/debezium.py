"""Changes as Debezium's JSON and back: one message for each change, for topics that others read too.

The envelope is Debezium's with its schemas off: ``before``, ``after``, ``source``, ``op`` (``r c u d t``) and
``ts_ms``; the key is the primary key as an object; a tombstone follows each delete. Values look as Debezium writes
them: decimals as text, bytes as base64, dates as days, times and timestamps as microseconds, timestamps with a time
zone as ISO text, doubles that JSON lacks as text. ``source`` carries what raypipe needs beyond Debezium's own fields to
read the very same batch back: commit, ordinal, and which columns an image has.

JSON says nothing of types, so the first message of each batch carries the table's schema in a header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import Compression, decimal_text, decode, encode
from raypipe.errors import Corrupt, SchemaMismatch
from raypipe.log.kafka.envelopes import data_names, decoding_sql, rows_of
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Op, TableSchema

SCHEMA_HEADER = "raypipe.schema"

_LETTERS = {
    Op.READ: "r",
    Op.INSERT: "c",
    Op.UPDATE_BEFORE: "u",
    Op.UPDATE_AFTER: "u",
    Op.DELETE: "d",
    Op.TRUNCATE: "t",
}
_LETTER_OF_OP = np.array([_LETTERS[Op(number)] for number in range(len(Op))])
# Microseconds of the first and the last moment that has an ISO year of four digits.
_ISO_RANGE = (-62_135_596_800_000_000, 253_402_300_799_999_999)


@dataclass(frozen=True, kw_only=True)
class Messages:
    """The messages of one batch, in order.

    Attributes:
        keys: JSON of each, None for a table without a key and for TRUNCATE.
        values: JSON of each, None for a tombstone.
        bytes: Of keys and values together.
    """

    keys: list[str | None]
    values: list[str | None]
    bytes: int


class DebeziumJson:
    """Encodes and decodes; for one thread at a time, since the DuckDB connection that does the work is its own."""

    def __init__(self) -> None:
        self._made: duckdb.DuckDBPyConnection | None = None

    def encode(self, batch: ChangeBatch) -> Messages:
        """The messages of a batch; an update that changes the key becomes a delete and an insert.

        Raises:
            SchemaMismatch: a column has a type that this encoding does not carry.
        """
        rows, table = batch.rows, batch.schema
        names = data_names(rows.schema)
        ops = rows.column(OP).to_numpy(zero_copy_only=False)
        befores, afters = _changes(rows, ops, table.key)
        first = np.where(befores >= 0, befores, afters)
        first = np.where(first >= 0, first, np.flatnonzero(ops == Op.TRUNCATE)[0] if (first < 0).any() else 0)
        if (ops == Op.TRUNCATE).any():
            first, befores, afters = _with_truncates(ops, first, befores, afters)
        letters = _letters(ops, befores, afters, first)
        wire = [_wire(rows.column(name), name, table) for name in names]
        columns: dict[str, pa.Array] = {}
        for side, places in (("b", befores), ("a", afters)):
            picked = pa.array(places, mask=places < 0)
            columns[f"has_{side}"] = pa.array(places >= 0)
            columns[f"image_{side}"] = rows.column(IMAGE).take(picked)
            for number, column in enumerate(wire):
                columns[f"{side}{number}"] = column.take(picked)
        columns["op"] = pa.array(letters)
        for name in (COMMIT, ORDINAL):
            columns[name] = rows.column(name).take(pa.array(first))
        columns[TIME] = rows.column(TIME).cast(pa.timestamp("us", "UTC")).view(pa.int64()).take(pa.array(first))
        found = self._run(_encoding_sql(table, tuple(names), tuple(_is_real(c.type) for c in wire)), pa.table(columns))
        return _as_messages(found, letters)

    def decode(self, header: bytes, values: Sequence[str | bytes | None]) -> ChangeBatch:
        """The batch that ``encode`` was given.

        Args:
            header: Of the first message, as ``schema_header`` made it.
            values: Of all messages of the batch, tombstones included.

        Raises:
            Corrupt: these are no such messages.
        """
        described = decode(header)
        arrow, table = described.rows.schema, described.schema
        names = data_names(arrow)
        try:
            texts = pa.array([value for value in values if value is not None], pa.binary()).cast(pa.string())
            found = self._run(decoding_sql(tuple(names), tuple(arrow.field(name).type for name in names)), _text(texts))
            return ChangeBatch(schema=table, rows=rows_of(arrow, names, found))
        except (duckdb.Error, pa.ArrowException, KeyError) as error:
            raise Corrupt("A stored change is no Debezium JSON of its table.", cause=error) from error

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _run(self, sql: str, given: pa.Table) -> pa.Table:
        if self._made is None:
            self._made = duckdb.connect(":memory:", config={"threads": 1})
            self._made.execute("SET TimeZone = 'UTC'")
        self._made.register("given", given)
        try:
            return self._made.sql(sql).to_arrow_table()
        finally:
            self._made.unregister("given")


@lru_cache(1024)
def schema_header(schema: TableSchema, arrow: pa.Schema) -> bytes:
    """The table's schema, with the types of its columns: a batch of no rows."""
    empty = pa.RecordBatch.from_pylist([], schema=arrow)
    return bytes(encode(ChangeBatch(schema=schema, rows=empty), Compression.NONE))


def _text(texts: pa.Array) -> pa.Table:
    return pa.table({"value": texts})


def _changes(
    rows: pa.RecordBatch, ops: npt.NDArray[np.int8], key: tuple[str, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row of the before image and row of the after image of each change, -1 for none (both of a TRUNCATE)."""
    places = np.arange(rows.num_rows)
    paired = np.zeros(rows.num_rows, dtype=bool)  # an after image whose before image stands right before it
    if rows.num_rows > 1:
        paired[1:] = (ops[:-1] == Op.UPDATE_BEFORE) & (ops[1:] == Op.UPDATE_AFTER)
        for name in (COMMIT, ORDINAL):
            values = rows.column(name).to_numpy(zero_copy_only=False)
            paired[1:] &= values[:-1] == values[1:]
        for name in key:
            column = rows.column(name)
            same = pc.fill_null(pc.equal(column.slice(0, len(column) - 1), column.slice(1)), True)
            paired[1:] &= same.to_numpy(zero_copy_only=False)
    begins = ~paired
    gone = np.isin(ops, (Op.UPDATE_BEFORE, Op.DELETE))
    present = np.isin(ops, (Op.READ, Op.INSERT, Op.UPDATE_AFTER))
    befores = np.where(gone, places, -1)[begins]
    afters = np.where(present, places, -1)[begins]
    follows = np.zeros(rows.num_rows, dtype=bool)
    follows[:-1] = paired[1:]
    with_pair = follows[begins]
    afters[with_pair] = befores[with_pair] + 1
    return befores, afters


def _with_truncates(
    ops: npt.NDArray[np.int8],
    first: npt.NDArray[np.int64],
    befores: npt.NDArray[np.int64],
    afters: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The row that each change begins with, now that a TRUNCATE (which has no image) is among them."""
    neither = (befores < 0) & (afters < 0)
    first = first.copy()
    first[neither] = np.flatnonzero(ops == Op.TRUNCATE)
    return first, befores, afters


def _letters(
    ops: npt.NDArray[np.int8],
    befores: npt.NDArray[np.int64],
    afters: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
) -> npt.NDArray[np.str_]:
    letters = _LETTER_OF_OP[ops[first]]
    # The two halves of an update whose key changed stand next to each other and are no pair: see ``_changes``.
    half_before = (befores >= 0) & (afters < 0) & (ops[first] == Op.UPDATE_BEFORE)
    half_after = (afters >= 0) & (befores < 0) & (ops[first] == Op.UPDATE_AFTER)
    moved = np.zeros(len(letters), dtype=bool)
    moved[:-1] = half_before[:-1] & half_after[1:]
    letters = np.where(moved, "d", letters)
    letters[1:] = np.where(moved[:-1], "c", letters[1:])
    return letters


def _wire(column: pa.Array, name: str, table: TableSchema) -> pa.Array:
    """A column as JSON shows it: numbers, text, booleans."""
    types, arrow = pa.types, column.type
    if types.is_dictionary(arrow):
        return _wire(column.cast(arrow.value_type), name, table)
    if types.is_boolean(arrow) or types.is_integer(arrow):
        return column
    if types.is_floating(arrow):
        return column.cast(pa.float64())
    if types.is_decimal(arrow):
        return decimal_text(column) if types.is_decimal128(arrow) else column.cast(pa.string())
    if types.is_string(arrow) or types.is_large_string(arrow) or types.is_string_view(arrow):
        return column.cast(pa.string())
    if types.is_binary(arrow) or types.is_large_binary(arrow) or types.is_fixed_size_binary(arrow):
        return column.cast(pa.binary())
    if types.is_date32(arrow) or types.is_time32(arrow):
        return column.view(pa.int32())
    if types.is_time64(arrow) or types.is_date64(arrow):
        return column.view(pa.int64())
    if types.is_timestamp(arrow):
        return _moment(column) if arrow.tz and arrow.unit == "us" else column.view(pa.int64())
    raise SchemaMismatch(
        f"Column {name} of table {table.table} has the type {arrow}, which Debezium's JSON does not carry exactly.",
        remedy="Take the table out of the option `debezium` of the log's URL; as Arrow it is carried as it is.",
        table=str(table.table),
        column=name,
    )


def _moment(column: pa.Array) -> pa.Array:
    """ISO text where the year has four digits, microseconds as digits elsewhere."""
    micros = column.view(pa.int64())
    low, high = _ISO_RANGE
    usual = pc.and_(pc.greater_equal(micros, low), pc.less_equal(micros, high))
    iso = pc.strftime(pc.if_else(usual, column, None).cast(pa.timestamp("us")), "%Y-%m-%dT%H:%M:%SZ")
    return pc.if_else(pc.fill_null(usual, True), iso, micros.cast(pa.string()))


def _is_real(arrow: pa.DataType) -> str:
    return "real" if pa.types.is_floating(arrow) else "bytes" if pa.types.is_binary(arrow) else ""


@lru_cache(256)
def _encoding_sql(table: TableSchema, names: tuple[str, ...], forms: tuple[str, ...]) -> str:
    if len({name.lower() for name in names}) < len(names):
        raise SchemaMismatch(
            f"Two columns of table {table.table} differ in case only; what writes the JSON cannot tell them apart.",
            remedy="Take the table out of the option `debezium` of the log's URL.",
            table=str(table.table),
        )

    def value(side: str, number: int) -> str:
        column = f"{side}{number}"
        if forms[number] == "real":
            # JSON has no NaN and no infinity.
            return f"CASE WHEN isfinite({column}) THEN to_json({column}) ELSE to_json(CAST({column} AS VARCHAR)) END"
        return f"to_base64({column})" if forms[number] == "bytes" else column

    def image(side: str) -> str:
        fields = ", ".join(f"{_quoted(name)}: {value(side, number)}" for number, name in enumerate(names))
        return f"CASE WHEN has_{side} THEN to_json({{{fields}}}) END"

    name = table.table
    places = {column: number for number, column in enumerate(names)}
    key_fields = ", ".join(
        f"{_quoted(column)}: CASE WHEN has_a THEN {value('a', places[column])} ELSE {value('b', places[column])} END"
        for column in table.key
    )
    key = f"CASE WHEN has_a OR has_b THEN to_json({{{key_fields}}}) END" if table.key else "NULL"
    source = ", ".join(
        [
            "'connector': 'raypipe'",
            f"'name': {_quoted(name.instance)}",
            f"'ts_ms': \"{TIME}\" // 1000",
            "'snapshot': CASE WHEN op = 'r' THEN 'true' ELSE 'false' END",
            f"'db': {_quoted(name.instance)}",
            f"'schema': {_quoted(name.schema)}",
            f"'table': {_quoted(name.table)}",
            f"'ts_us': \"{TIME}\"",
            f"'commit': \"{COMMIT}\"",
            f"'ordinal': \"{ORDINAL}\"",
            "'before_image': image_b",
            "'after_image': image_a",
        ]
    )
    return (
        f"SELECT CAST({key} AS VARCHAR) AS key, CAST(to_json({{'before': {image('b')}, 'after': {image('a')},"
        f" 'source': {{{source}}}, 'op': op, 'ts_ms': epoch_ms(now())}}) AS VARCHAR) AS value FROM given"
    )


def _as_messages(found: pa.Table, letters: npt.NDArray[np.str_]) -> Messages:
    keys = found.column("key")
    size = sum(column.nbytes for column in found.columns)
    deletes = np.flatnonzero(letters == "d")
    if not len(deletes) or not keys[int(deletes[0])].is_valid:
        return Messages(keys=keys.to_pylist(), values=found.column("value").to_pylist(), bytes=size)
    # A tombstone after each delete: a compacted copy of the topic forgets the key.
    where = deletes + 1
    order = np.insert(np.arange(len(keys)), where, deletes)
    is_tombstone = np.insert(np.zeros(len(keys), dtype=bool), where, True)
    with_keys = found.column("key").take(pa.array(order))
    with_values = pc.if_else(pa.array(is_tombstone), None, found.column("value").take(pa.array(order)))
    return Messages(keys=with_keys.to_pylist(), values=with_values.to_pylist(), bytes=size)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
