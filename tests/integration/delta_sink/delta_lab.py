"""Short words for the tests of the Delta sink: relations, changes, a sink that counts its epochs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from raypipe.contracts import Sink
from raypipe.model import (
    ChangeBatch,
    Column,
    Committed,
    Cut,
    Epoch,
    Image,
    Mode,
    Op,
    SinkTable,
    TableName,
    TableSchema,
)
from raypipe.plan.model import SinkPlan
from raypipe.sinks.delta import open_delta

READ, INSERT, BEFORE, AFTER, DELETE, TRUNCATE = (
    Op.READ,
    Op.INSERT,
    Op.UPDATE_BEFORE,
    Op.UPDATE_AFTER,
    Op.DELETE,
    Op.TRUNCATE,
)
KEY_ONLY = "key only"

Row = tuple[Any, ...]


def day(number: int | None) -> datetime.date | None:
    """The n-th day of 2026."""
    return None if number is None else datetime.date(2026, 1, 1) + datetime.timedelta(days=number)


def relation(columns: Mapping[str, pa.DataType], key: Sequence[str] = (), branches: int = 1) -> TableSchema:
    return TableSchema(
        table=TableName("", "", "orders"),
        columns=tuple(Column(name=name, type=type_) for name, type_ in columns.items()),
        key=tuple(key),
        branches=branches,
    )


ORDERS = relation({"id": pa.int64(), "day": pa.date32(), "v": pa.string()}, key=["id"])
BAG = replace(ORDERS, key=())


def sink_table(schema: TableSchema = ORDERS, **more: Any) -> SinkTable:
    return SinkTable(**{"name": "orders", "relation": "orders", "schema": schema, "view": "v1", **more})


def changes(schema: TableSchema, *rows: Row, commit: int = 1) -> ChangeBatch:
    """(op, values…); missing values are NULL; with ``KEY_ONLY`` as the last value the image is a key image."""
    shape = ChangeBatch.arrow_schema(schema)
    width = len(shape) - 5
    images, values, ordinals, at = [], [], [], 0
    for op, *given in rows:
        images.append(Image.KEY if given[-1:] == [KEY_ONLY] else Image.FULL)
        known = [value for value in given if value != KEY_ONLY]
        values.append([*known, *[None] * (width - len(known))])
        at += op != AFTER
        ordinals.append(at)
    columns = [[row[0] for row in rows], images, [commit] * len(rows), ordinals, [None] * len(rows)]
    columns += [list(column) for column in zip(*values, strict=True)] if rows else [[]] * width
    arrays = [pa.array(column, field.type) for column, field in zip(columns, shape, strict=True)]
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_arrays(arrays, schema=shape))


def cut(number: int) -> Cut:
    return Cut(number=number, log="log", offsets={"p.orders": number}, positions={"shop": str(number)})


class Lab:
    """One Delta table, written by one sink at a time."""

    def __init__(self, folder: Path, table: SinkTable) -> None:
        self.folder = folder
        self.table = table
        self.path = folder / table.name
        self.sink = self.another_sink()
        self.at = 0

    def another_sink(self) -> Sink:
        """A second object over the same table."""
        return open_delta(SinkPlan(name="lake", url=f"delta:///{self.folder}", tables=(self.table,)), "shop")[0]

    def open(self, generation: int = 1) -> Committed:
        self.sink = self.another_sink()
        committed = self.sink.open(generation)
        self.at = committed.cut.number if committed.cut is not None else 0
        return committed

    def stage(self, *batches: ChangeBatch) -> None:
        after = cut(self.at) if self.at else None
        self.sink.begin(Epoch(after=after, upto=cut(self.at + 1), generation=1))
        for batch in batches:
            self.sink.write(self.table.name, batch)

    def epoch(self, *batches: ChangeBatch) -> int:
        """Commits an epoch and tells how many versions of the table that made."""
        before = self.delta().version()
        self.stage(*batches)
        committed = self.sink.commit()
        assert committed.cut is not None
        self.at = committed.cut.number
        return self.delta().version() - before

    def delta(self) -> DeltaTable:
        return DeltaTable(str(self.path))

    def operation(self) -> str:
        """What the newest commit says it is."""
        return str(self.delta().history(1)[0]["operation"])

    def contents(self) -> pa.Table:
        with self.another_sink().contents() as contents:
            batches = list(contents.rows(self.table.name))
        assert batches
        return pa.Table.from_batches(batches)

    def rows(self) -> list[Row]:
        with self.another_sink().contents() as contents:
            found = [tuple(row.values()) for b in contents.rows(self.table.name) for row in b.to_pylist()]
        return sorted(found, key=repr)

    def held(self) -> Committed:
        with self.another_sink().contents() as contents:
            return contents.committed


def in_history(table: SinkTable) -> SinkTable:
    return replace(table, mode=Mode.HISTORY)
