"""Debezium's JSON, as raypipe's log writes it, back to row images: SQL that takes envelopes apart, and what follows."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, SYSTEM_FIELDS, TIME, Op

_ISO = "%Y-%m-%dT%H:%M:%S.%fZ"


def data_names(arrow: pa.Schema) -> list[str]:
    """Names of a table's own columns among those of its batches."""
    system = {field.name for field in SYSTEM_FIELDS}
    return [name for name in arrow.names if name not in system]


@lru_cache(256)
def decoding_sql(names: tuple[str, ...], types: tuple[pa.DataType, ...]) -> str:
    """Of the query over ``given`` that takes envelopes apart, one row for each."""
    image = {name: _json_type(arrow) for name, arrow in zip(names, types, strict=True)}
    source = {"commit": "BIGINT", "ordinal": "BIGINT", "ts_us": "BIGINT", "before_image": "TINYINT"}
    structure = {"before": image, "after": image, "source": source | {"after_image": "TINYINT"}, "op": "VARCHAR"}
    columns = ["read.op AS op", "read.before IS NOT NULL AS has_b", "read.after IS NOT NULL AS has_a"]
    columns += [f"read.source.{field} AS {field}" for field in structure["source"]]
    for side, letter in (("before", "b"), ("after", "a")):
        for number, (name, arrow) in enumerate(zip(names, types, strict=True)):
            field = f"read.{side}.{_identifier(name)}"
            columns.append(f"{_read_back(field, arrow)} AS {letter}{number}")
    text = json.dumps(structure).replace("'", "''")
    return f"SELECT {', '.join(columns)} FROM (SELECT from_json(value, '{text}') AS read FROM given)"


def _json_type(arrow: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(arrow):
        return _json_type(arrow.value_type)
    if types.is_boolean(arrow):
        return "BOOLEAN"
    if types.is_uint64(arrow):
        return "UBIGINT"
    if types.is_integer(arrow) or types.is_date(arrow) or types.is_time(arrow):
        return "BIGINT"
    if types.is_timestamp(arrow) and not (arrow.tz and arrow.unit == "us"):
        return "BIGINT"
    return "VARCHAR"


def _read_back(field: str, arrow: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(arrow):
        return _read_back(field, arrow.value_type)
    if types.is_floating(arrow):
        return f"CAST({field} AS DOUBLE)"
    if types.is_binary(arrow) or types.is_large_binary(arrow) or types.is_fixed_size_binary(arrow):
        return f"from_base64({field})"
    if types.is_timestamp(arrow) and arrow.tz and arrow.unit == "us":
        iso = f"epoch_us(strptime({field}, '{_ISO}'))"
        return f"CASE WHEN {field} LIKE '%Z' THEN {iso} ELSE CAST({field} AS BIGINT) END"
    return field


def rows_of(arrow: pa.Schema, names: list[str], found: pa.Table) -> pa.RecordBatch:
    """The images in order: of each change the one before, then the one after; one row for a TRUNCATE."""
    count = found.num_rows
    if found.column("commit").null_count or found.column("op").null_count:
        raise KeyError("source.commit")
    has_b, has_a = (found.column(name).to_numpy() for name in ("has_b", "has_a"))
    letters = found.column("op").to_numpy()
    kept = np.column_stack([has_b | (letters == "t"), has_a]).ravel()
    order = pa.array(np.column_stack([np.arange(count), np.arange(count) + count]).ravel()[kept])
    change = pa.array(np.repeat(np.arange(count), 2)[kept])
    is_after = (np.arange(2 * count) % 2 == 1)[kept]
    letter = letters[change.to_numpy()]
    ops = np.select(
        [letter == "r", letter == "c", letter == "d", letter == "t", is_after],
        [Op.READ, Op.INSERT, Op.DELETE, Op.TRUNCATE, Op.UPDATE_AFTER],
        Op.UPDATE_BEFORE,
    )
    system = {
        OP: pa.array(ops, pa.int8()),
        IMAGE: pc.fill_null(_both(found, "before_image", "after_image").take(order), 0),
        COMMIT: found.column("commit").combine_chunks().take(change),
        ORDINAL: found.column("ordinal").combine_chunks().take(change),
        TIME: found.column("ts_us").combine_chunks().take(change).view(pa.timestamp("us", "UTC")),
    }
    data = {
        name: _typed(_both(found, f"b{number}", f"a{number}").take(order), arrow.field(name).type)
        for number, name in enumerate(names)
    }
    columns = system | data
    return pa.record_batch([columns[field.name].cast(field.type) for field in arrow], schema=arrow)


def _both(found: pa.Table, before: str, after: str) -> pa.Array:
    return pa.concat_arrays([found.column(name).combine_chunks() for name in (before, after)])


def _typed(column: pa.Array, arrow: pa.DataType) -> pa.Array:
    types = pa.types
    if types.is_dictionary(arrow):
        return _typed(column, arrow.value_type).dictionary_encode().cast(arrow)
    if types.is_date32(arrow) or types.is_time32(arrow):
        return column.cast(pa.int32()).view(arrow)
    if types.is_date64(arrow) or types.is_time64(arrow) or types.is_timestamp(arrow):
        return column.cast(pa.int64()).view(arrow)
    return column.cast(arrow)


def _identifier(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
