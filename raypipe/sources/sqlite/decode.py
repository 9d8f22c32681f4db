"""From spooled rows to Arrow: types, change batches, and the rows that must be parked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.model import ChangeBatch, Image, Op, TableSchema
from raypipe.sources.sqlite.quarantine import Parked, reason_of, row_key, row_text
from raypipe.sources.sqlite.schema import Shape
from raypipe.sources.sqlite.spool import Spool
from raypipe.sources.sqlite.types import Cells, Mask, kind_of

# Spooled columns that precede the table's own: op, change number, julian day of the change, rowid.
LEADING = 4

_EPOCH_AS_JULIAN_DAY = 2440587.5
_DAY_MS = 86_400_000

# What a released or parked row does in the quarantine table.
_IN_QUARANTINE = {
    Op.READ: Op.READ,
    Op.INSERT: Op.INSERT,
    Op.UPDATE_AFTER: Op.INSERT,
    Op.UPDATE_BEFORE: Op.DELETE,
    Op.DELETE: Op.DELETE,
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A run of rows of one spool table, all of one table under one shape.

    Attributes:
        spool: That holds them.
        number: Of the spool table.
        shape: Of the captured table.
        first: Number of the first row.
        rows: How many.
    """

    spool: Spool
    number: int
    shape: Shape
    first: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Rows in Arrow.

    Attributes:
        leading: Op, change number, and when the change was made.
        columns: The table's columns; NULL where a value does not fit.
        misfits: For each row the place of its first column that does not fit, or -1.
    """

    leading: tuple[pa.Array, pa.Array, pa.Array]
    columns: tuple[pa.Array, ...]
    misfits: npt.NDArray[np.int32]


def decode(part: Part) -> Decoded:
    """Reads rows and converts every column by its declared type."""
    spooled = [f"s{LEADING + place}" for place in range(len(part.shape.fields))]
    kinds = [kind_of(field.declared) for field in part.shape.fields]
    expressions = [kind.read.format(column) for kind, column in zip(kinds, spooled, strict=True)]
    read = part.spool.read(part.number, ["s0", "s1", "s2", *expressions], part.first, part.rows)
    op, seq, at = read.column(0).cast(pa.int8()), read.column(1), read.column(2).cast(pa.float64())
    misfits = np.full(part.rows, -1, np.int32)
    columns = []
    for place, (kind, expression) in enumerate(zip(kinds, expressions, strict=True)):
        cells = Cells(
            values=read.column(3 + place),
            holds_only=partial(_holds_only, part, expression),
            only=partial(_only, part, expression),
        )
        values = kind.convert(cells)
        columns.append(values.array)
        if values.fits is not None:
            misfits[~values.fits & (misfits < 0)] = place
    for place in [part.shape.names.index(name) for name in part.shape.key]:
        if read.column(3 + place).null_count:  # SQLite allows NULL in most primary keys; a key it is not
            absent = pc.and_(
                pc.is_null(read.column(3 + place)), pc.not_equal(op, pa.scalar(int(Op.TRUNCATE), pa.int8()))
            )
            misfits[absent.to_numpy(zero_copy_only=False) & (misfits < 0)] = place
    return Decoded(leading=(op, seq, at), columns=tuple(columns), misfits=misfits)


def _holds_only(part: Part, expression: str, storage: str) -> bool:
    other = (
        f"WHERE rowid BETWEEN {part.first} AND {part.first + part.rows - 1}"
        f" AND typeof({expression}) NOT IN ('{storage}', 'null')"
    )
    return part.spool.find(part.number, "1", other) is None


def _only(part: Part, expression: str, storage: str) -> pa.Array:
    chosen = f"CASE typeof({expression}) WHEN '{storage}' THEN {expression} END"
    return part.spool.read(part.number, [chosen], part.first, part.rows).column(0)


def batch_of(decoded: Decoded, schema: TableSchema, commit: int) -> ChangeBatch | None:
    """The changes that fit; None if there are none."""
    op, seq, at = decoded.leading
    count = len(op)
    rows = pa.RecordBatch.from_arrays(
        [
            op,
            pa.array(np.full(count, int(Image.FULL), np.int8)),
            pa.array(np.full(count, commit, np.int64)),
            seq,
            _time_of(at),
            *decoded.columns,
        ],
        schema=ChangeBatch.arrow_schema(schema),
    )
    fits: Mask = decoded.misfits < 0
    if not fits.all():
        rows = rows.filter(pa.array(fits))
    return ChangeBatch(schema, rows) if rows.num_rows else None


def _time_of(julian_days: pa.Array) -> pa.Array:
    days = julian_days.fill_null(_EPOCH_AS_JULIAN_DAY).to_numpy(zero_copy_only=False)
    microseconds = np.rint((days - _EPOCH_AS_JULIAN_DAY) * _DAY_MS).astype(np.int64) * 1000  # SQLite's clock has ms
    return pa.array(microseconds, mask=julian_days.is_null().to_numpy(zero_copy_only=False)).cast(
        pa.timestamp("us", tz="UTC")
    )


def parked_in(part: Part, decoded: Decoded) -> list[Parked]:
    """The rows that do not fit, in order."""
    places = np.flatnonzero(decoded.misfits >= 0).tolist()
    if not places:
        return []
    found = part.spool.exact(part.number, [part.first + place for place in places])
    parked = []
    for place, (_, _, _, rowid, *values) in zip(places, found, strict=True):
        field = part.shape.fields[decoded.misfits[place]]
        named = dict(zip(part.shape.names, values, strict=True))
        parked.append(
            Parked(
                op=_IN_QUARANTINE[Op(decoded.leading[0][place].as_py())],
                ordinal=decoded.leading[1][place].as_py(),
                table=part.shape.table,
                key=row_key(part.shape, named, rowid),
                column=field.name,
                reason=reason_of(named[field.name], field.declared),
                row=row_text(named),
            )
        )
    return parked
