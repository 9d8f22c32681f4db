"""Rows that do not fit leave their table's changes and become rows of the quarantine, and leave it again."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa

from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, ChangeBatch, Column, Image, Op, TableName, TableSchema
from raypipe.sources.postgres.misfits import Misfits
from raypipe.sources.postgres.quarantine import emptied, park, quarantine_of

PRICES = TableSchema(
    table=TableName("shop", "public", "prices"),
    columns=(
        Column(name="id", type=pa.int64(), declared="bigint"),
        Column(name="price", type=pa.decimal128(12, 2), declared="numeric(12,2)"),
        Column(name='odd "name"', type=pa.string(), declared="text"),
        Column(name="days", type=pa.list_(pa.date32()), declared="date[]"),
        Column(name="raw", type=pa.binary(), declared="bytea"),
    ),
    key=("id",),
)
FITS, MISFIT = -1, 1
NAN = "NaN"


def misfits(*places: int) -> Misfits:
    """Prices that do not fit at the places that say so."""
    return Misfits(
        places=np.array(places, np.int32),
        texts={"price": pa.array([NAN if place == MISFIT else None for place in places], pa.string())},
    )


def batch(*images: tuple[Op, Image, int, str | None], schema: TableSchema = PRICES) -> pa.RecordBatch:
    count = len(images)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([int(op) for op, *_ in images], pa.int8()),
            pa.array([int(image) for _, image, *_ in images], pa.int8()),
            pa.array([7] * count, pa.int64()),
            pa.array(range(count), pa.int64()),
            pa.array([5] * count, pa.timestamp("us", tz="UTC")),
            pa.array([key for *_, key, _ in images], pa.int64()),
            pa.array([None if price is None else Decimal(price) for *_, price in images], pa.decimal128(12, 2)),
            pa.array(['a "b" \\ \n é'] * count),
            pa.array([[date(2026, 1, 1), None]] * count, pa.list_(pa.date32())),
            pa.array([b"\0\xff"] * count),
        ],
        schema=ChangeBatch.arrow_schema(schema),
    )


def told(changes: ChangeBatch | None) -> list[tuple[str, str, str]]:
    assert changes is not None
    changes.rows.validate(full=True)
    return [(Op(row[OP]).name, Image(row[IMAGE]).name, row["row_key"]) for row in changes.rows.to_pylist()]


def test_what_fits_is_left_alone():
    rows = batch((Op.INSERT, Image.FULL, 1, "1.00"), (Op.DELETE, Image.KEY, 2, None))
    assert park(PRICES, rows, None, "shop", clearing=False) == (rows, None, 0)


def test_a_row_that_does_not_fit_goes_into_quarantine_with_its_key_and_reason():
    rows = batch((Op.INSERT, Image.FULL, 1, "1.00"), (Op.INSERT, Image.FULL, 2, None), (Op.READ, Image.FULL, 3, None))
    fitting, changes, parked = park(PRICES, rows, misfits(FITS, MISFIT, MISFIT), "shop", clearing=False)
    assert fitting.column("id").to_pylist() == [1]
    assert parked == 2
    assert told(changes) == [("INSERT", "FULL", '["2"]'), ("READ", "FULL", '["3"]')]
    assert changes is not None
    assert changes.schema == quarantine_of("shop")
    [row, _] = changes.rows.to_pylist()
    assert (row["table_name"], row["column_name"]) == ("shop.prices", "price")
    assert row["reason"] == "a numeric(12,2) that decimal128(12, 2) cannot hold"
    assert (row[COMMIT], row[ORDINAL]) == (7, 1)
    assert json.loads(row["row"]) == {
        "id": "2",
        "price": "NaN",
        'odd "name"': 'a "b" \\ \n é',
        "days": "{2026-01-01,NULL}",
        "raw": "\\x00ff",
    }


def test_a_row_that_stops_fitting_is_deleted_downstream_and_parked():
    rows = batch((Op.UPDATE_BEFORE, Image.KEY, 1, None), (Op.UPDATE_AFTER, Image.FULL, 1, None))
    fitting, changes, parked = park(PRICES, rows, misfits(FITS, MISFIT), "shop", clearing=False)
    assert fitting.column(OP).to_pylist() == [Op.UPDATE_BEFORE]
    assert told(changes) == [("DELETE", "KEY", '["1"]'), ("INSERT", "FULL", '["1"]')]
    assert parked == 1


def test_a_row_that_is_mended_or_deleted_leaves_the_quarantine():
    rows = batch(
        (Op.UPDATE_BEFORE, Image.FULL, 1, None),
        (Op.UPDATE_AFTER, Image.FULL, 1, "2.00"),
        (Op.DELETE, Image.KEY, 2, None),
        (Op.INSERT, Image.FULL, 3, "3.00"),
    )
    fitting, changes, parked = park(PRICES, rows, misfits(MISFIT, FITS, FITS, FITS), "shop", clearing=True)
    assert fitting.column(OP).to_pylist() == [Op.UPDATE_AFTER, Op.DELETE, Op.INSERT]
    assert told(changes) == [("DELETE", "KEY", '["1"]'), ("DELETE", "KEY", '["2"]')]
    assert parked == -1


def test_a_table_without_a_key_names_a_row_by_all_of_it():
    schema = TableSchema(table=PRICES.table, columns=PRICES.columns[:2], key=())
    rows = batch((Op.INSERT, Image.FULL, 1, None)).select([*range(7)])
    _, changes, _ = park(schema, rows, misfits(MISFIT), "shop", clearing=False)
    assert told(changes) == [("INSERT", "FULL", '["1", "NaN"]')]


def test_the_quarantine_is_emptied_by_a_truncate():
    [row] = emptied("shop", 9, 3, None).rows.to_pylist()
    assert (row[OP], row[COMMIT], row[ORDINAL], row["row_key"]) == (Op.TRUNCATE, 9, 3, None)
