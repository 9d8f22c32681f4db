"""The table in which an instance keeps rows that do not fit their columns' types; the same for every kind of source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.model import COMMIT, OP, ORDINAL, TIME, ChangeBatch, Column, Image, Op, TableName, TableSchema

QUARANTINE = "_raypipe_quarantine"
_GOES = pa.array([int(Op.UPDATE_BEFORE), int(Op.DELETE)], pa.int8())


def quarantine_schema(instance: str, schema: str, *, text: str, json: str) -> TableSchema:
    """Of the instance's table ``_raypipe_quarantine``.

    Args:
        instance: Name.
        schema: Of the instance's database that the table is said to be in.
        text: The database's type for text.
        json: Its type for JSON, which the whole row is.
    """
    columns = {"table_name": text, "row_key": text, "column_name": text, "reason": text, "row": json}
    return TableSchema(
        table=TableName(instance, schema, QUARANTINE),
        columns=tuple(Column(name=name, type=pa.string(), declared=declared) for name, declared in columns.items()),
        key=("table_name", "row_key"),
    )


@dataclass(frozen=True, kw_only=True)
class Parted:
    """A table's changes, parted by whether they fit.

    Attributes:
        fitting: Those that do.
        told: Numbers of the images that the quarantine hears of.
        enters: Of each of these, whether its row enters the quarantine; else it goes out.
        parked: Rows that entered, minus those whose end is known by an image that does not fit either.
    """

    fitting: pa.RecordBatch
    told: npt.NDArray[np.int64]
    enters: npt.NDArray[np.bool_]
    parked: int


def parted(rows: pa.RecordBatch, misfit: npt.NDArray[np.bool_], *, clearing: bool) -> Parted:
    """Takes images that do not fit out of a table's changes.

    Args:
        rows: The changes, system columns first.
        misfit: Which images do not fit.
        clearing: Whether the table may have rows in quarantine from before; then whatever goes is taken out of it.
    """
    goes = pc.is_in(rows.column(OP), value_set=_GOES).to_numpy(zero_copy_only=False)
    enters = misfit & ~goes
    leaves = goes if clearing or enters.any() else np.zeros(rows.num_rows, np.bool_)
    told = np.flatnonzero(enters | leaves)
    return Parted(
        fitting=rows if not misfit.any() else rows.filter(pa.array(~misfit)),
        told=told,
        enters=enters[told],
        parked=int(enters.sum()) - int((misfit & goes).sum()),
    )


def parking(
    quarantine: TableSchema,
    table: TableSchema,
    rows: pa.RecordBatch,
    enters: npt.NDArray[np.bool_],
    *,
    row_key: pa.Array,
    column: pa.Array,
    reason: pa.Array,
    row: pa.Array,
) -> ChangeBatch:
    """An insert for each image that enters the quarantine, a delete by key for each other one.

    Args:
        quarantine: Its schema.
        table: Whose images they are.
        rows: The images that are told.
        enters: See ``Parted``.
        row_key: Of each image.
        column: That does not fit, NULL for what goes.
        reason: Likewise.
        row: As JSON; left out for what goes.
    """
    read = pc.equal(rows.column(OP), int(Op.READ)).to_numpy(zero_copy_only=False)
    arrays = [
        pa.array(np.where(enters, np.where(read, np.int8(Op.READ), np.int8(Op.INSERT)), np.int8(Op.DELETE))),
        pa.array(np.where(enters, np.int8(Image.FULL), np.int8(Image.KEY))),
        rows.column(COMMIT),
        rows.column(ORDINAL),
        rows.column(TIME),
        pa.array([str(table.table)] * rows.num_rows, pa.string()),
        row_key,
        column,
        reason,
        pc.if_else(pa.array(enters), row, pa.scalar(None, pa.string())),
    ]
    return ChangeBatch(quarantine, pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(quarantine)))


def emptying(quarantine: TableSchema, commit: int, ordinal: int, time_us: int | None) -> ChangeBatch:
    """The quarantine's own TRUNCATE."""
    system = [
        pa.array([int(Op.TRUNCATE)], pa.int8()),
        pa.array([int(Image.FULL)], pa.int8()),
        pa.array([commit], pa.int64()),
        pa.array([ordinal], pa.int64()),
        pa.array([time_us], pa.timestamp("us", tz="UTC")),
    ]
    arrays = [*system, *(pa.nulls(1, column.type) for column in quarantine.columns)]
    return ChangeBatch(quarantine, pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(quarantine)))
