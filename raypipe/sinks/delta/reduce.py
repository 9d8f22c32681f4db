"""Reduces the staged rows of an epoch to what its one commit must do to a table that holds the present state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import shard_of
from raypipe.errors import Corrupt
from raypipe.model import BRANCH, COMMIT, IMAGE, OP, ORDINAL, SYSTEM_FIELDS, ChangeBatch, Column, Image, Op, TableSchema
from raypipe.model.change import BRANCH_FIELD, RESERVED_PREFIX
from raypipe.sinks.delta.stage import Spool, Spread, Stage
from raypipe.sinks.nested import is_nested
from raypipe.sinks.netting import WEIGHT, identity_columns, net_keyed, net_multiset
from raypipe.sinks.types import fit

Counts = npt.NDArray[np.int64]

GONE = f"{RESERVED_PREFIX}gone"  # bool: the row is to be deleted, else it is to be present
MOST_VALUES = 64  # of a partition column that a predicate names one by one; beyond, nothing is pruned by it


@dataclass(kw_only=True)
class Touched:
    """Where the rows lie that an epoch touches: what a merge need not read is everything else.

    Attributes:
        values: Of each partition column, all that the touched rows have before or after; None if not known.
        key: A column of integers that is part of the key, None if there is none.
        low: Least value of ``key``, None if not known.
        high: Greatest.
    """

    values: dict[str, pa.Array | None] = field(default_factory=dict)
    key: str | None = None
    low: pa.Scalar | None = None
    high: pa.Scalar | None = None

    def add_values(self, column: str, found: pa.Array | pa.ChunkedArray) -> None:
        """Joins values of a partition column with those known."""
        before = self.values.get(column, pa.array([], found.type))
        if before is None:
            return
        chunks = found.chunks if isinstance(found, pa.ChunkedArray) else [found]
        both = pc.unique(pa.chunked_array([before, *chunks]))
        self.values[column] = both if len(both) <= MOST_VALUES else None

    def add_range(self, column: pa.ChunkedArray) -> None:
        """Widens the range by values of ``key``; a NULL has no place in a range."""
        if column.null_count:
            self.key = None
        if self.key is None or not len(column):
            return
        ends = pc.min_max(column)
        self.low = ends["min"] if self.low is None else min(self.low, ends["min"], key=_plain)
        self.high = ends["max"] if self.high is None else max(self.high, ends["max"], key=_plain)


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """What an epoch does to a table. The truncated branches go first.

    Attributes:
        truncated: Branches whose stored rows all go.
        rows: The table's columns and ``GONE``. With a key, one row for each identity; a row that is gone may hold the
            identity alone. Without, a gone row stands for all its copies, and those that stay are among the others.
        gone: How many are gone.
        touched: Where they lie.
    """

    truncated: frozenset[int]
    rows: Spool
    gone: int
    touched: Touched


def spread_of(schema: TableSchema) -> Spread:
    """How staged rows are spread over buckets: by key; without a key by all columns the plan knows.

    Columns that come later do not count, nor does a widened type: a bucket must not change within an epoch. Lists and
    structs do not count either; rows that are nothing else share a bucket.
    """
    types = schema.arrow()
    names = schema.key or [name for name in schema.names if not is_nested(types.field(name).type)]

    def spread(rows: pa.Table, buckets: int) -> npt.NDArray[np.int64]:
        known = [
            rows[name].combine_chunks()
            if name in rows.column_names
            else pa.nulls(rows.num_rows, types.field(name).type)
            for name in names
        ]
        numbers = shard_of(pa.RecordBatch.from_arrays(known, names=list(names)), names, buckets)
        numbers[rows[OP].to_numpy() == Op.TRUNCATE] = -1
        return numbers

    return spread


def reduce_keyed(stage: Stage, schema: TableSchema, columns: pa.Schema, partition_by: Sequence[str]) -> Reduced:
    """The last image of each identity over the whole epoch.

    Args:
        stage: Holds the epoch.
        schema: Of the relation.
        columns: All of the Delta table.
        partition_by: Columns the table is partitioned by.
    """
    identity = identity_columns(schema)
    number = next((name for name in schema.key if pa.types.is_integer(columns.field(name).type)), None)
    spool, touched, truncated, gone = stage.spool("net"), Touched(key=number), frozenset[int](), 0
    for batch in _batches(stage, schema, columns):
        net = net_keyed(batch)
        truncated |= net.truncated
        gone += net.deletes.num_rows
        rows = pa.concat_tables(
            [
                _marked(fit(net.upserts, columns), gone=False),
                _marked(fit(net.deletes.select(identity), columns), gone=True),
            ]
        )
        spool.add(rows)
        _note_places(touched, batch, partition_by)
        if number is not None:
            touched.add_range(rows[number])
    return Reduced(truncated=truncated, rows=spool, gone=gone, touched=touched)


def reduce_multiset(
    stage: Stage,
    schema: TableSchema,
    columns: pa.Schema,
    partition_by: Sequence[str],
    copies: Callable[[Spool, Touched], Counts],
) -> Reduced:
    """Copies of each row to insert; rows of which copies go are deleted whole, and those that stay inserted again.

    Args:
        stage: Holds the epoch.
        schema: Of the relation.
        columns: All of the Delta table.
        partition_by: Columns the table is partitioned by.
        copies: Counts the copies that the table holds of each row of a spool.

    Raises:
        Corrupt: the table lacks rows that are to go.
    """
    added, removed, touched, truncated = stage.spool("added"), stage.spool("removed"), Touched(), frozenset[int]()
    for batch in _batches(stage, schema, columns):
        net = net_multiset(batch)
        truncated |= net.truncated
        weights = net.weights
        added.add(weights.filter(pc.greater(weights[WEIGHT], 0)))
        less = _without(weights.filter(pc.less(weights[WEIGHT], 0)), truncated)
        removed.add(less)
        for name in partition_by:
            touched.add_values(name, less[name])
    held = copies(removed, touched) if removed.num_rows else np.zeros(0, np.int64)
    spool, gone, begin = stage.spool("net"), 0, 0
    for weights in added.tables():
        spool.add(_repeated(weights, columns, weights[WEIGHT].to_numpy()))
    for weights in removed.tables():
        here = held[begin : begin + weights.num_rows]
        begin += weights.num_rows
        left = here + weights[WEIGHT].to_numpy()
        if (left < 0).any():
            raise Corrupt(
                f"The Delta table of {schema.table} lacks rows that raypipe wrote: somebody else changed it.",
                remedy="Remove the table to load it again, and keep other writers away from it.",
            )
        gone += weights.num_rows
        spool.add(_marked(fit(weights, columns), gone=True))
        spool.add(_repeated(weights, columns, left))
    return Reduced(truncated=truncated, rows=spool, gone=gone, touched=touched)


def present_rows(rows: Spool) -> Iterator[pa.Table]:
    """Of reduced rows those that are not gone."""
    return (table.filter(pc.invert(table[GONE])) for table in rows.tables())


def _batches(stage: Stage, schema: TableSchema, columns: pa.Schema) -> Iterator[ChangeBatch]:
    """Each part of the stage as one batch with the Delta table's columns."""
    branch = (BRANCH_FIELD,) if schema.branches > 1 else ()
    data = [column for column in columns if column.name != BRANCH]
    wanted = pa.schema([*SYSTEM_FIELDS, *branch, *data])
    widened = TableSchema(
        table=schema.table,
        columns=tuple(Column(name=column.name, type=column.type) for column in data),
        key=schema.key,
        branches=schema.branches,
    )
    for tables in stage.parts():
        whole = pa.concat_tables([fit(rows, wanted) for rows in tables]).combine_chunks()
        yield ChangeBatch(schema=widened, rows=whole.to_batches()[0])


def _without(rows: pa.Table, truncated: frozenset[int]) -> pa.Table:
    """Leaves out rows that went with their branch."""
    if BRANCH in rows.column_names:
        return rows.filter(pc.invert(pc.is_in(rows[BRANCH], pa.array(truncated, pa.int8()))))
    return rows.slice(0, 0) if truncated else rows


def _note_places(touched: Touched, batch: ChangeBatch, partition_by: Sequence[str]) -> None:
    """Notes the partitions of all images, if these tell where each row was before.

    They do when nothing but inserts and full images before the change begin a row's part of the epoch. A row that was
    read, or an after image that stands alone, may replace a row of any partition; a key alone tells of none.
    """
    ops = batch.rows.column(OP).to_numpy()
    counted = ops != Op.TRUNCATE
    known = not (ops == Op.READ).any()
    known = known and bool((batch.rows.column(IMAGE).to_numpy()[counted] == Image.FULL).all())
    known = known and _every_after_image_has_its_before_image(batch, ops)
    for name in partition_by:
        if known:
            touched.add_values(name, batch.rows.column(name).filter(pa.array(counted)))
        else:
            touched.values[name] = None


def _every_after_image_has_its_before_image(batch: ChangeBatch, ops: npt.NDArray[np.int8]) -> bool:
    afters = np.flatnonzero(ops == Op.UPDATE_AFTER)
    if not afters.size:
        return True
    if afters[0] == 0 or (ops[afters - 1] != Op.UPDATE_BEFORE).any():
        return False
    systems = (batch.rows.column(name).to_numpy() for name in (COMMIT, ORDINAL))
    return all(bool((system[afters] == system[afters - 1]).all()) for system in systems)


def _marked(rows: pa.Table, *, gone: bool) -> pa.Table:
    return rows.append_column(GONE, pa.array(np.full(rows.num_rows, gone)))


def _repeated(weights: pa.Table, columns: pa.Schema, times: npt.NDArray[np.int64]) -> pa.Table:
    """Each row as many times as said, to be present."""
    return _marked(fit(weights.take(pa.array(np.repeat(np.arange(weights.num_rows), times))), columns), gone=False)


def _plain(scalar: pa.Scalar) -> int:
    value: int = scalar.as_py()
    return value
