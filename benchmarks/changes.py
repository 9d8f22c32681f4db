"""Change batches made from nothing: an orders table's updates, for benchmarks that need no source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Column, Image, Op, TableName, TableSchema

ORDERS = TableSchema(
    table=TableName("shop", "main", "orders"),
    columns=(
        Column(name="order_id", type=pa.int64(), declared="INTEGER"),
        Column(name="customer_id", type=pa.int64(), declared="INTEGER"),
        Column(name="status", type=pa.string(), declared="TEXT"),
        Column(name="amount", type=pa.decimal128(10, 2), declared="DECIMAL(10,2)"),
        Column(name="placed_at", type=pa.timestamp("us"), declared="TIMESTAMP"),
        Column(name="note", type=pa.string(), declared="TEXT"),
    ),
    key=("order_id",),
)

STATUSES = pa.array(["new", "paid", "shipped", "returned"])
FIRST_US = 1_767_225_600_000_000  # 2026-01-01


def updates(batches: int, changes: int, seed: int = 1) -> Iterator[ChangeBatch]:
    """Batches of updates, two images each; a tenth of the notes is NULL, and texts repeat as little as real ones.

    Args:
        batches: How many.
        changes: In each; the batch has twice as many rows.
        seed: Of everything in them.
    """
    random = np.random.default_rng(seed)
    for number in range(batches):
        yield ChangeBatch(ORDERS, _rows(random, number * changes, changes))


def _rows(random: np.random.Generator, first: int, changes: int) -> pa.RecordBatch:
    images = 2 * changes
    order = np.repeat(random.integers(1, 10_000_000, changes), 2)
    place = np.repeat(np.arange(first + 1, first + changes + 1), 2)
    columns = {
        OP: pa.array(np.tile(np.array([Op.UPDATE_BEFORE, Op.UPDATE_AFTER], np.int8), changes)),
        IMAGE: pa.array(np.full(images, Image.FULL, np.int8)),
        COMMIT: pa.array(place),
        ORDINAL: pa.array(np.zeros(images, np.int64)),
        TIME: pa.array(FIRST_US + place, pa.timestamp("us", tz="UTC")),
        "order_id": pa.array(order),
        "customer_id": pa.array(np.repeat(random.integers(1, 100_000, changes), 2)),
        "status": STATUSES.take(pa.array(random.integers(0, len(STATUSES), images))),
        "amount": pa.array(random.integers(0, 100_000, images)).cast(pa.decimal128(19, 0)).cast(pa.decimal128(21, 2)),
        "placed_at": pa.array(FIRST_US + 1_000 * order, pa.timestamp("us")),
        "note": pa.array(order * 7_919, mask=random.random(images) < 0.1).cast(pa.string()),
    }
    columns["amount"] = columns["amount"].cast(pa.decimal128(10, 2))
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=ChangeBatch.arrow_schema(ORDERS))
