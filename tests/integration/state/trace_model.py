"""A plain model of a trace, and rows to put into one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from raypipe.contracts import WEIGHT, WEIGHT_FIELD, TraceSchema

Row = tuple[Any, ...]


def schema_of(columns: dict[str, pa.DataType], key: Sequence[str], name: str = "t") -> TraceSchema:
    return TraceSchema(name=name, columns=pa.schema(list(columns.items())), key=tuple(key))


def weighted(schema: TraceSchema, rows: Iterable[tuple[Row, int]]) -> pa.Table:
    listed = list(rows)
    arrays = [pa.array([row[place] for row, _ in listed], field.type) for place, field in enumerate(schema.columns)] + [
        pa.array([weight for _, weight in listed], pa.int64())
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*schema.columns, WEIGHT_FIELD]))


def keys_of(schema: TraceSchema, keys: Iterable[Row]) -> pa.Table:
    listed = list(keys)
    fields = [schema.columns.field(name) for name in schema.key]
    return pa.table(
        {field.name: pa.array([key[place] for key in listed], field.type) for place, field in enumerate(fields)}
    )


def plain(value: Any) -> Hashable:
    """A value such that Python finds equal what DuckDB groups: one NaN, one zero."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if isinstance(value, list):
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, plain(item)) for name, item in value.items())
    return value  # type: ignore[no-any-return]


class Model:
    """A multiset of rows in a dictionary."""

    def __init__(self, schema: TraceSchema, rows: Counter[Hashable] | None = None) -> None:
        self.schema = schema
        self.rows: Counter[Hashable] = Counter(rows or {})

    def copy(self) -> Model:
        return Model(self.schema, self.rows)

    def append(self, rows: Iterable[tuple[Row, int]]) -> None:
        for row, weight in rows:
            self.rows[tuple(plain(value) for value in row)] += weight

    def all(self) -> dict[Hashable, int]:
        return {row: weight for row, weight in self.rows.items() if weight}

    def probe(self, keys: Iterable[Row]) -> dict[Hashable, int]:
        places = [self.schema.columns.names.index(name) for name in self.schema.key]
        wanted = {tuple(plain(value) for value in key) for key in keys}
        return {
            row: weight
            for row, weight in self.all().items()
            if tuple(row[place] for place in places) in wanted  # type: ignore[index]
        }


def told(rows: pa.Table | Iterable[pa.RecordBatch]) -> dict[Hashable, int]:
    """Rows as a trace tells them; fails if one is told twice or with weight zero."""
    found: dict[Hashable, int] = {}
    for batch in rows.to_batches() if isinstance(rows, pa.Table) else rows:
        for row in batch.to_pylist():
            weight = row.pop(WEIGHT)
            values = tuple(plain(value) for value in row.values())
            assert values not in found, "a row is told twice"
            assert weight, "a row that is not there is told"
            found[values] = weight
    return found
