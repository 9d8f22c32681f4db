"""Spreads a batch over the partitions of its topic, so that all changes of a key stay in one and in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.codec import shard_of
from raypipe.errors import SchemaMismatch
from raypipe.model import COMMIT, OP, ORDINAL, ChangeBatch, Op


@dataclass(frozen=True, kw_only=True)
class Share:
    """Rows for one partition.

    Attributes:
        partition: To append them to.
        batch: The changes.
        copy: The first partition has the same (a TRUNCATE).
    """

    partition: int
    batch: ChangeBatch
    copy: bool = False


def spread(batch: ChangeBatch, partitions: int) -> Iterator[list[Share]]:
    """Groups of shares; what is in a group may be read in any order, the groups only one after the other.

    A TRUNCATE is a group of its own and goes to every partition. An update that changes its key, and so its partition,
    becomes a delete and an insert.
    """
    if partitions == 1:
        yield [Share(partition=0, batch=batch)]
        return
    truncates = batch.rows.column(OP).to_numpy() == Op.TRUNCATE
    begin = 0
    for at in np.flatnonzero(truncates).tolist():
        if at > begin:
            yield list(_shares(batch, begin, at, partitions))
        event = replace(batch, rows=batch.rows.slice(at, 1))
        yield [Share(partition=number, batch=event, copy=number > 0) for number in range(partitions)]
        begin = at + 1
    if begin < batch.num_rows or begin == 0:
        yield list(_shares(batch, begin, batch.num_rows, partitions))


def _shares(batch: ChangeBatch, begin: int, end: int, partitions: int) -> Iterator[Share]:
    rows = batch.rows.slice(begin, end - begin)
    places = _places(rows, batch.schema.key, partitions)
    if not rows.num_rows or (places == places[0]).all():
        yield Share(partition=int(places[0]) if rows.num_rows else 0, batch=replace(batch, rows=rows))
        return
    rows = _parted(rows, places)
    for partition in np.unique(places).tolist():
        mine = pa.array(np.flatnonzero(places == partition))
        yield Share(partition=partition, batch=replace(batch, rows=rows.take(mine)))


def _places(rows: pa.RecordBatch, key: tuple[str, ...], partitions: int) -> npt.NDArray[np.int64]:
    """Partition of each row. Without a key, or with one that has no hash, a table lives in the first."""
    if key:
        try:
            return shard_of(rows, key, partitions)
        except SchemaMismatch:
            pass
    return np.zeros(rows.num_rows, dtype=np.int64)


def _parted(rows: pa.RecordBatch, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """The rows with the two images of an update that are about to be parted as a delete and an insert."""
    ops = rows.column(OP).to_numpy(zero_copy_only=False)
    same = np.ones(rows.num_rows - 1, dtype=bool)
    for name in (COMMIT, ORDINAL):
        values = rows.column(name).to_numpy(zero_copy_only=False)
        same &= values[:-1] == values[1:]
    pairs = (ops[:-1] == Op.UPDATE_BEFORE) & (ops[1:] == Op.UPDATE_AFTER) & same & (places[:-1] != places[1:])
    if not pairs.any():
        return rows
    changed = ops.copy()
    before = np.flatnonzero(pairs)
    changed[before] = Op.DELETE
    changed[before + 1] = Op.INSERT
    at = rows.schema.get_field_index(OP)
    return rows.set_column(at, rows.schema.field(at), pa.array(changed, rows.schema.field(at).type))
