"""A piece joins what is small, leaves alone what is large, and keeps each table's order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raypipe.model import ChangeBatch, Column, TableName, TableSchema
from raypipe.sources.postgres.captured import read_batch
from raypipe.sources.postgres.gathering import LARGE_BYTES, Gathered


def batch(table: str, first: int, rows: int, version: int = 1) -> ChangeBatch:
    schema = TableSchema(
        table=TableName("shop", "public", table),
        columns=(Column(name="id", type=pa.int64(), declared="bigint"),),
        key=("id",),
        version=version,
    )
    return read_batch(schema, [pa.array(np.arange(first, first + rows))], 1, 0)


def ids(batches: tuple[ChangeBatch, ...], table: str) -> list[int]:
    return [row for each in batches if each.schema.table.table == table for row in each.rows.column("id").to_pylist()]


def test_small_batches_of_a_table_become_one():
    gathered = Gathered()
    for number in range(50):
        gathered.add(batch("orders", number * 10, 10))
        gathered.add(batch("lines", number * 5, 5))
    joined = gathered.joined()
    assert [(each.schema.table.table, each.num_rows) for each in joined] == [("orders", 500), ("lines", 250)]
    assert ids(joined, "orders") == list(range(500))


def test_a_large_batch_is_not_copied_to_be_joined():
    large = batch("orders", 0, LARGE_BYTES // 8)
    gathered = Gathered()
    gathered.add(large)
    gathered.add(batch("orders", large.num_rows, 3))
    gathered.add(batch("orders", large.num_rows + 3, 4))
    joined = gathered.joined()
    assert joined[0] is large
    assert [each.num_rows for each in joined] == [large.num_rows, 7]
    assert ids(joined, "orders") == list(range(large.num_rows + 7))


def test_a_version_that_comes_back_stays_behind_the_other():
    gathered = Gathered()
    for first, version in ((0, 1), (10, 2), (20, 1)):
        gathered.add(batch("orders", first, 10, version))
    assert [each.schema.version for each in gathered.joined()] == [1, 2, 1]
