"""Messages to columns by one DuckDB query: the rows' images, and where each message stands in its database's stream.

A chunk is an Arrow table of the messages of one partition, in order, in these columns:

| column | |
|---|---|
| offset, stamp, size | of the message; its timestamp in milliseconds since 1970, its bytes |
| key | of the message, without an embedded schema |
| op | code of Debezium's letter, 0 for a tombstone, -1 for something else |
| full, has_after | whether ``before`` is a whole row, and whether there is an ``after`` |
| time | when the database made the change, microseconds since 1970 |
| phase | see ``Phase`` |
| behind, lsn | of PostgreSQL: end of the transaction before (-1 if Debezium had seen none), and of the change |
| tx | number of the source's transaction, with Debezium's transaction metadata |
| ordinal | place of the change among those of its table in that transaction |
| a0 … b0 … k0 … | the image after, the one before (if wanted), the key: a column of values for each of the table's |
| misfit_a, misfit_b, misfit_k | place of the first column whose value does not fit, -1 if all do |

A value that the database did not send does not fit either; its place counts from the number of columns on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import Corrupt
from raypipe.model import Image
from raypipe.sources.debezium.fields import Field
from raypipe.sources.debezium.shape import Shape, Style
from raypipe.sources.debezium.values import finished, json_type, reading, unsent

_MARKS = ("phase", "behind", "lsn", "tx", "ordinal")


class Phase(IntEnum):
    """What of its connector a message comes from."""

    STREAM = 0  # the database's log
    SNAPSHOT = 1
    LAST = 2  # of the rows of a snapshot, over all tables
    OTHER = 3  # a connector that does not tell, an incremental snapshot, a tombstone


@dataclass(frozen=True, kw_only=True)
class Format:
    """What messages are read as.

    Attributes:
        topic: For messages to people.
        shape: Of the rows.
        whole_before: An envelope's ``before`` holds the whole row.
    """

    topic: str
    shape: Shape
    whole_before: bool

    @property
    def with_before(self) -> bool:
        """Whether chunks have the columns of the image before."""
        return self.whole_before or not self.shape.key or self.shape.style is Style.RAYPIPE

    @property
    def sides(self) -> tuple[str, ...]:
        """Of the images that chunks have."""
        return ("a", *(["b"] if self.with_before else []), *(["k"] if self.shape.key else []))

    def columns(self, side: str) -> list[tuple[int, Field]]:
        """Place and field of those that an image has."""
        return [
            (place, each) for place, each in enumerate(self.shape.fields) if side != "k" or each.name in self.shape.key
        ]


class Parser:
    """For one thread: the DuckDB connection that does the work is its own."""

    def __init__(self) -> None:
        self._made: duckdb.DuckDBPyConnection | None = None

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def parse(
        self,
        format_: Format,
        keys: pa.Array,
        payloads: pa.Array,
        stamps: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
    ) -> pa.Table:
        """A chunk, as the module describes it.

        Args:
            format_: Of the messages.
            keys: Binary, without embedded schemas.
            payloads: Likewise; NULL for a tombstone.
            stamps: Timestamps.
            offsets: Of the messages.

        Raises:
            Corrupt: a message is no JSON.
        """
        try:
            given = pa.table({"key": keys.cast(pa.string()), "value": payloads.cast(pa.string())})
        except pa.ArrowInvalid as error:
            raise _no_json(format_.topic, error) from None
        given = given.append_column("stamp", pa.array(stamps))
        given = given.append_column("place", pa.array(np.arange(len(stamps))))
        found = self._run(_sql(format_), given, format_.topic)
        columns: dict[str, pa.Array] = {
            "offset": pa.array(offsets),
            "stamp": pa.array(stamps),
            "size": pc.add(pc.fill_null(pc.binary_length(payloads), 0), pc.fill_null(pc.binary_length(keys), 0)),
            "key": keys,
        }
        for name in ("op", "full", "has_after", "time", *_MARKS):
            columns[name] = _flat(found.column(name))
        told_by_debezium = format_.shape.style is not Style.RAYPIPE
        for side in format_.sides:
            misfits = np.full(len(stamps), -1, np.int32)
            for place, each in reversed(format_.columns(side)):
                values = finished(each, _flat(found.column(f"{side}{place}")))
                if values.null_count:
                    there = _flat(found.column(f"has_{side}{place}"))
                    lost = pc.and_(values.is_null(), there).to_numpy(zero_copy_only=False)
                    misfits[lost] = place
                if side == "a" and told_by_debezium and (missing := unsent(values)) is not None:
                    misfits[missing] = place + len(format_.shape.fields)
                columns[f"{side}{place}"] = values
            columns[f"misfit_{side}"] = pa.array(misfits)
        return pa.table(columns)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """What does the work."""
        if self._made is None:
            self._made = duckdb.connect(":memory:", config={"threads": 1})
            self._made.execute("SET TimeZone = 'UTC'")
        return self._made

    def _run(self, sql: str, given: pa.Table, topic: str) -> pa.Table:
        self.connection.register("given", given)
        try:
            return self.connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise _no_json(topic, error) from None
        finally:
            self.connection.unregister("given")


def _no_json(topic: str, error: Exception) -> Corrupt:
    return Corrupt(
        f"A message of topic {topic} is no JSON.",
        remedy="Use the JsonConverter for keys and values.",
        cause=RuntimeError(type(error).__name__),  # the library's own words would show the message
        topic=topic,
    )


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


@lru_cache(256)
def _sql(format_: Format) -> str:
    """Of the query over ``given``: one row for each message, in order."""
    shape = format_.shape
    image = _structure({each.name: json_type(each.form) for _, each in format_.columns("a")})
    parts = {"after": image, "op": '"VARCHAR"', "ts_ms": '"BIGINT"'}
    source = {"ts_ms": "BIGINT", "ts_us": "BIGINT", "before_image": "TINYINT"}
    if shape.style is not Style.RAYPIPE:
        source |= {"connector": "VARCHAR", "snapshot": "VARCHAR", "lsn": "BIGINT", "sequence": "VARCHAR"}
        parts["transaction"] = _structure({"id": "VARCHAR", "data_collection_order": "BIGINT"})
    parts["source"] = _structure(source)
    if format_.with_before:
        parts["before"] = image
    envelope = "{" + ",".join(f'"{name}":{type_}' for name, type_ in parts.items()) + "}"
    columns = [
        "CASE WHEN value IS NULL THEN 0 WHEN length(read.op) = 1 THEN ascii(read.op) ELSE -1 END AS op",
        "read.after IS NOT NULL AS has_after",
        "coalesce(read.source.ts_us, 1000 * read.source.ts_ms, 1000 * read.ts_ms, 1000 * stamp) AS time",
        f"{_full(format_)} AS full",
        *_marks(shape.style),
    ]
    sources = {"a": "read.after", "b": "read.before", "k": "row_key"}
    for side in format_.sides:
        for place, each in format_.columns(side):
            value = f"{sources[side]}.{_quoted(each.name)}"
            columns.append(f"{reading(each, value)} AS {side}{place}, {value} IS NOT NULL AS has_{side}{place}")
    key = _structure({each.name: json_type(each.form) for _, each in format_.columns("k")})
    keyed = f"from_json(key, {_literal(key)})" if shape.key else "NULL"
    return (
        f"SELECT {', '.join(columns)} FROM (SELECT place, stamp, value, from_json(value, {_literal(envelope)}) AS read,"
        f" {keyed} AS row_key FROM given) ORDER BY place"
    )


def _full(format_: Format) -> str:
    if not format_.with_before:
        return "FALSE"
    if format_.shape.style is Style.RAYPIPE:
        return f"read.before IS NOT NULL AND coalesce(read.source.before_image = {Image.FULL:d}, FALSE)"
    return f"read.before IS NOT NULL AND {format_.whole_before or not format_.shape.key}"


def _marks(style: Style) -> Sequence[str]:
    if style is Style.RAYPIPE:
        # raypipe's own log writes each change once, in transactions that no consumer sees torn.
        nothing = [f"NULL::BIGINT AS {name}" for name in _MARKS[1:]]
        return [f"{Phase.OTHER:d}::TINYINT AS phase", *nothing]
    source = "read.source"
    told = f"{source}.connector = 'postgresql' AND {source}.lsn IS NOT NULL"
    return [
        f"CASE WHEN ({told}) IS NOT TRUE OR {source}.snapshot = 'incremental' THEN {Phase.OTHER:d}"
        f" WHEN coalesce({source}.snapshot, 'false') = 'false' THEN {Phase.STREAM:d}"
        f" WHEN {source}.snapshot = 'last' THEN {Phase.LAST:d} ELSE {Phase.SNAPSHOT:d} END::TINYINT AS phase",
        # '["end of the transaction before","lsn"]', with a bare null for what is not known yet.
        f"CASE WHEN {source}.sequence LIKE '[\"%'"
        f" THEN coalesce(TRY_CAST(split_part({source}.sequence, '\"', 2) AS BIGINT), -1) ELSE -1 END AS behind",
        f"{source}.lsn AS lsn",
        "TRY_CAST(split_part(read.transaction.id, ':', 1) AS BIGINT) AS tx",
        "read.transaction.data_collection_order AS ordinal",
    ]


def _structure(types: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{_text(name)}:{_text(type_)}" for name, type_ in types.items()) + "}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
