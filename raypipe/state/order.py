"""Rows in the order of their places, each row once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe import faults
from raypipe.codec import ascending, certainly_equal, taken
from raypipe.codec.rowhash import Words
from raypipe.contracts import WEIGHT, WEIGHT_FIELD, TraceSchema
from raypipe.errors import SchemaMismatch
from raypipe.state.equality import total
from raypipe.state.places import places
from raypipe.state.weights import weights_of, without_weight

PLACE = "_raypipe_place"
# From here on the time to move a column about counts for more than that to look whether it must be.
_MANY = 1 << 14


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns as they are stored: any may be NULL, of plain layouts of their types, without metadata.

    Raises:
        SchemaMismatch: a column has a name that is ours, or there are two of one name.
    """
    names = set(schema.names)
    if len(names) < len(schema.names) or names & {PLACE, WEIGHT}:
        raise SchemaMismatch(
            f"State cannot hold rows of the columns {', '.join(schema.names)}: a name is there twice or reserved.",
            remedy="Give each column of the query a name of its own.",
        )
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """What a run holds: the place, the plain columns, the weight."""
    return pa.schema([pa.field(PLACE, pa.uint64(), nullable=False), *schema, WEIGHT_FIELD])


def fit(rows: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The columns of a schema, of its types.

    Raises:
        SchemaMismatch: a column is missing, or its values do not fit.
    """
    missing = [field.name for field in schema if field.name not in rows.column_names]
    if missing:
        raise SchemaMismatch(f"Rows for the state of {name} lack the columns {', '.join(missing)}.", trace=name)
    chosen = rows.select(schema.names)
    if chosen.schema.equals(schema):
        return chosen
    columns = []
    for field, given in zip(schema, chosen.columns, strict=True):
        column = given
        if isinstance(given.type, pa.BaseExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in given.chunks], given.type.storage_type)
        try:
            columns.append(column if column.type.equals(field.type) else column.cast(field.type))
        except pa.ArrowException as error:
            # Its text may hold a value, so only its type is told.
            raise SchemaMismatch(
                f"Column {field.name} of the state of {name} is {field.type}; {column.type} does not fit"
                f" ({type(error).__name__}).",
                trace=name,
                column=field.name,
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)


def pieces(rows: pa.Table, piece_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows in contiguous batches of about so many bytes, all in one if they are fewer."""
    if not rows.num_rows:
        return
    count = max(1, -(-rows.nbytes // piece_bytes))
    length = -(-rows.num_rows // count)
    for begin in range(0, rows.num_rows, length):
        yield from rows.slice(begin, length).combine_chunks().to_batches()


def sort(rows: pa.RecordBatch, schema: TraceSchema) -> pa.RecordBatch:
    """Rows with their weights, as they are stored: in the order of their places, equal rows once."""
    at = places(rows, schema.key, schema.columns.names)
    if faults.armed("mutant.state_unset_key"):
        keyed = np.ones(rows.num_rows, dtype=np.bool_)
        for name in schema.key:
            keyed &= rows.column(name).is_valid().to_numpy(zero_copy_only=False)
        rows, at = rows.filter(pa.array(keyed)), at[keyed]
    return _in_order(_with_places(rows, at), ascending(at), schema)


def _with_places(rows: pa.RecordBatch, at: Words) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(at), *rows.columns], schema=stored_schema(without_weight(rows.schema)))


def places_of(rows: pa.RecordBatch) -> Words:
    """The first column as an array, without a copy."""
    at: Words = rows.column(0).to_numpy()
    return at


def negated(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The same stored rows going instead of coming."""
    return rows.set_column(rows.num_columns - 1, WEIGHT_FIELD, pa.array(-weights_of(rows)))


def merge(parts: list[pa.RecordBatch], schema: TraceSchema) -> pa.RecordBatch:
    """Stored rows of several sorted parts as one."""
    together = pa.concat_batches(parts)
    # Timsort takes the sorted parts for what they are: a tenth of the time that sorting from scratch takes.
    return _in_order(together, np.argsort(places_of(together), kind="stable"), schema)


def replaced(
    rows: pa.RecordBatch, at: Words, order: npt.NDArray[np.int64], before: list[pa.RecordBatch], schema: TraceSchema
) -> pa.RecordBatch:
    """Rows that come, and stored ones that go, as one.

    Args:
        rows: Without weights.
        at: Place of each.
        order: Those that count, in the order of their places.
        before: Stored rows with their weights, each part in order.
        schema: Of the trace.
    """
    ones = pa.array(np.ones(rows.num_rows, np.int64))
    together = pa.RecordBatch.from_arrays([pa.array(at), *rows.columns, ones], schema=stored_schema(rows.schema))
    if before:
        together = pa.concat_batches([together, *before])
        order = np.concatenate((order, np.arange(rows.num_rows, together.num_rows)))
        order = order[np.argsort(places_of(together)[order], kind="stable")]
    return _in_order(together, order, schema)


def _in_order(rows: pa.RecordBatch, order: npt.NDArray[np.int64], schema: TraceSchema) -> pa.RecordBatch:
    """Stored rows as an order has them, with the weights of equal ones summed, and without those that cancel out."""
    at = places_of(rows)[order]
    tied = at[1:] == at[:-1]
    if not tied.any():
        return _chosen(rows, order, at)
    weights = weights_of(rows)[order]
    names = schema.columns.names
    pairs = np.flatnonzero(tied)
    compared = rows.select(names)
    one, other = (taken(compared, order[each]) for each in (pairs, pairs + 1))
    equal = certainly_equal(one, other, names)
    firsts = np.flatnonzero(np.concatenate(([True], ~tied)))
    if equal.all():
        sums = np.add.reduceat(weights, firsts)
    else:
        firsts, sums = _regroup(rows, order, firsts, pairs[~equal], names)
    if faults.armed("mutant.state_drop_weight"):
        sums = weights[firsts]
    kept = sums != 0
    firsts, sums = firsts[kept], sums[kept]
    chosen = taken(rows, order[firsts])
    if (sums == weights[firsts]).all():
        return chosen
    return chosen.set_column(chosen.num_columns - 1, WEIGHT_FIELD, pa.array(sums))


def _chosen(rows: pa.RecordBatch, order: npt.NDArray[np.int64], at: Words) -> pa.RecordBatch:
    """Stored rows as an order has them, whose places are given, without those of weight 0."""
    weights = weights_of(rows)
    if not weights.all():
        present = weights[order] != 0
        order, at = order[present], at[present]
    if len(order) < _MANY or weights.min() < weights.max():
        return taken(rows, order)
    # The places are in order already, and all weights are one number: only the other columns need be moved about.
    columns = taken(rows.select(rows.schema.names[1:-1]), order).columns
    return pa.RecordBatch.from_arrays([pa.array(at), *columns, pa.array(weights[: len(at)])], schema=rows.schema)


def _regroup(
    rows: pa.RecordBatch,
    order: npt.NDArray[np.int64],
    firsts: npt.NDArray[np.int64],
    unequal: npt.NDArray[np.int64],
    names: list[str],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First row and weight of each group, where some rows of one place are not equal, or nobody could tell."""
    at, weights = places_of(rows)[order], weights_of(rows)[order]
    sums = np.add.reduceat(weights, firsts)
    doubtful = np.zeros(len(firsts), dtype=np.bool_)
    doubtful[np.searchsorted(firsts, unequal, "right") - 1] = True
    lengths = np.diff(np.append(firsts, len(order)))
    members = np.flatnonzero(np.repeat(doubtful, lengths))
    found, found_sums = total(taken(rows, order[members]), names)
    firsts = np.concatenate((firsts[~doubtful], members[found]))
    sums = np.concatenate((sums[~doubtful], found_sums))
    sorted_ = np.argsort(at[firsts], kind="stable")
    return firsts[sorted_], sums[sorted_]
