"""Hashes of rows that a server and we compute alike, so that a table is compared without being sent.

Each value has a text that both sides make and that no other value of its type has; a row is the texts of its columns,
each with its length before it, and its mark 60 bits of their MD5. Where the two sides write one value differently (some
elements of arrays) a row only looks different, and is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import decimal_text
from raypipe.contracts.repair import BYTES, CHECKSUM, CHECKSUM_MODULUS, CHUNK, KEY_MARK, ROW_MARK, ROWS
from raypipe.model import Column, TableSchema
from raypipe.sources.postgres.connect import Session, literal, quoted
from raypipe.sources.postgres.copying import copy_rows
from raypipe.sources.postgres.decode import SentColumn, Shape, shape_of
from raypipe.sources.postgres.moments import POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_US
from raypipe.sources.postgres.schema import Table
from raypipe.sources.postgres.server_text import as_text
from raypipe.sources.postgres.types import Catalog

# A server says nothing while it goes over a table; one that is gone is noticed by keep-alives of the connection.
PASS_S = 4 * 3600.0
_INT8_OID, _TEXT_OID = 20, 25
_OUTPUT_SQL = "CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {0}) END"
_BITS_SQL = "('x' || encode({1}send({0}), 'hex'))::bit({2})::{3}::text"


def _text_sql(kind: pa.DataType, column: str) -> str:
    """The text of a value, on the server."""
    if pa.types.is_float32(kind):
        return _BITS_SQL.format(column, "float4", 32, "int4")
    if pa.types.is_float64(kind):
        return _BITS_SQL.format(column, "float8", 64, "int8")
    if pa.types.is_date32(kind):
        return _BITS_SQL.format(column, "date_", 32, "int4")
    if pa.types.is_time64(kind):
        return _BITS_SQL.format(column, "time_", 64, "int8")
    if pa.types.is_timestamp(kind):
        return _BITS_SQL.format(column, "timestamptz_" if kind.tz else "timestamp_", 64, "int8")
    if pa.types.is_list(kind):
        return f"array_to_json({column})::text"
    if pa.types.is_string(kind):
        return _OUTPUT_SQL.format(column)
    return f"{column}::text"


def _text_here(column: pa.Array) -> pa.Array:
    """The same of values that are held; a list as it is, for DuckDB to write."""
    kind = column.type
    if pa.types.is_float32(kind):
        return column.view(pa.int32()).cast(pa.string())
    if pa.types.is_float64(kind):
        return column.view(pa.int64()).cast(pa.string())
    if pa.types.is_date32(kind):
        days = column.view(pa.int32()).cast(pa.int64())
        return pc.subtract(days, pa.scalar(POSTGRES_EPOCH_DAYS, pa.int64())).cast(pa.string())
    if pa.types.is_time64(kind):
        return column.view(pa.int64()).cast(pa.string())
    if pa.types.is_timestamp(kind):
        return pc.subtract(column.view(pa.int64()), pa.scalar(POSTGRES_EPOCH_US, pa.int64())).cast(pa.string())
    if pa.types.is_decimal(kind):
        return decimal_text(column)
    if pa.types.is_list(kind):
        return column
    return pc.if_else(column.is_valid(), as_text(column), pa.scalar(None, pa.string()))


def _whole_text(columns: Sequence[str], length: str) -> str:
    """Texts of several columns as one that no other texts make."""
    return " || ".join(f"coalesce({length}({column})::text || ':' || {column}, '-')" for column in columns)


def _marks_sql(table: Table, shape: Shape) -> str:
    """A query for the marks, size and key of each row. ``OFFSET 0`` keeps the server from computing a text twice."""
    names = [f"c{place}" for place in range(len(shape.schema.names))]
    texts = ", ".join(
        f"{_text_sql(kind.type, quoted(column))} AS {name}"
        for kind, column, name in zip(shape.kinds, shape.schema.names, names, strict=True)
    )
    given = ", ".join(f"{_OUTPUT_SQL.format(quoted(key))} AS k{place}" for place, key in enumerate(table.key))
    keys = ", ".join(f"k{place}" for place in range(len(table.key)))
    of_key = _whole_text([names[shape.schema.names.index(key)] for key in table.key], "octet_length")
    of_row = _whole_text(names, "octet_length")
    mark = "('x' || left(md5({0}), 15))::bit(60)::int8"
    return (
        f"SELECT {mark.format('of_key')} AS {KEY_MARK}, {mark.format('of_row')} AS {ROW_MARK},"
        f" octet_length(of_row)::int8 AS size, {keys} FROM ("
        f"SELECT {of_key} AS of_key, {of_row} AS of_row, {keys} FROM ("
        f"SELECT {texts}, {given} FROM {table.sql} OFFSET 0) AS a OFFSET 0) AS b OFFSET 0"
    )


def read_checksums(
    session: Session, catalog: Catalog, table: Table, shape: Shape, chunks: int
) -> Iterator[pa.RecordBatch]:
    """See ``raypipe.contracts.repair.ComparesTables``."""
    sql = (
        f"SELECT {KEY_MARK} & {chunks - 1} AS {CHUNK}, count(*)::int8 AS {ROWS},"
        f" (sum({ROW_MARK}) % {CHECKSUM_MODULUS})::int8 AS {CHECKSUM}, sum(size)::int8 AS {BYTES}"
        f" FROM ({_marks_sql(table, shape)}) AS m GROUP BY 1"
    )
    yield from _read(session, catalog, shape.schema, sql, [CHUNK, ROWS, CHECKSUM, BYTES], [])


def read_marks(
    session: Session, catalog: Catalog, table: Table, shape: Shape, chunks: int, chosen: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    """See ``raypipe.contracts.repair.ComparesTables``."""
    keys = [f"k{place}" for place in range(len(table.key))]
    wanted = literal("{" + ",".join(map(str, chosen)) + "}")
    sql = (
        f"SELECT {', '.join([KEY_MARK, ROW_MARK, *keys])} FROM ({_marks_sql(table, shape)}) AS m"
        f" WHERE {KEY_MARK} & {chunks - 1} = ANY({wanted}::int8[])"
    )
    yield from _read(session, catalog, shape.schema, sql, [KEY_MARK, ROW_MARK], keys)


def _read(
    session: Session, catalog: Catalog, of: TableSchema, sql: str, numbers: list[str], texts: list[str]
) -> Iterator[pa.RecordBatch]:
    session.run("SET LOCAL idle_in_transaction_session_timeout = 0")
    schema = TableSchema(
        table=of.table,
        columns=(
            *(Column(name=name, type=pa.int64()) for name in numbers),
            *(Column(name=name, type=pa.string()) for name in texts),
        ),
        key=(),
    )
    sent = [SentColumn(name=name, type_oid=_INT8_OID) for name in numbers]
    sent += [SentColumn(name=name, type_oid=_TEXT_OID) for name in texts]
    for part in copy_rows(session, sql, shape_of(schema, sent, catalog), silent_s=PASS_S):
        yield pa.RecordBatch.from_arrays(list(part.columns), names=[*numbers, *texts])


class Marker:
    """Computes the marks of rows that are held elsewhere."""

    def __init__(self) -> None:
        self._database = duckdb.connect(":memory:", config={"threads": 1})
        self._database.execute("SET enable_progress_bar = false")

    def marks(self, schema: TableSchema, rows: pa.RecordBatch) -> pa.RecordBatch:
        """KEY_MARK, ROW_MARK and the key.

        Args:
            schema: Of the table.
            rows: With its columns and their types, in any order.
        """
        columns = {name: rows.column(name) for name in schema.names}
        names = {name: f"c{place}" for place, name in enumerate(schema.names)}
        keys = {f"k{place}": as_text(columns[name]) for place, name in enumerate(schema.key)}
        given = pa.table({**{names[name]: _text_here(column) for name, column in columns.items()}, **keys})
        texts = ", ".join(
            # A list that is NULL would be the text "null".
            f"CASE WHEN {names[name]} IS NOT NULL THEN to_json({names[name]})::VARCHAR END AS {names[name]}"
            if pa.types.is_list(column.type)
            else names[name]
            for name, column in columns.items()
        )
        mark = "('0x' || left(md5({0}), 15))::BIGINT"
        of_key = _whole_text([names[name] for name in schema.key], "strlen")
        of_row = _whole_text(list(names.values()), "strlen")
        self._database.register("given", given)
        try:
            found = self._database.sql(
                f"SELECT {mark.format(of_key)} AS {KEY_MARK}, {mark.format(of_row)} AS {ROW_MARK},"
                f" {', '.join(keys)} FROM (SELECT {texts}, {', '.join(keys)} FROM given)"
            ).to_arrow_table()
        finally:
            self._database.unregister("given")
        batches = found.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=found.schema)

    def close(self) -> None:
        """Ends the database."""
        self._database.close()
