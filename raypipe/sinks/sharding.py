"""Spreads the rows of a sink over several equal stores, by the hash of ``raypipe.codec.keyhash``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.codec import shard_of
from raypipe.model import OP, ChangeBatch, Op


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several equal stores that share the rows of a sink.

    Attributes:
        index: From 0.
        count: Of the shards.
    """

    index: int
    count: int

    def share(self, batch: ChangeBatch) -> ChangeBatch:
        """The changes this shard keeps: those of its keys, and every TRUNCATE.

        A relation without a key lives in shard 0: a hash of all values would move with every column that comes.
        """
        if self.count == 1:
            return batch
        mine = self._owns(batch.rows, batch.schema.key) | _truncates(batch.rows)
        return ChangeBatch(schema=batch.schema, rows=batch.rows.filter(pa.array(mine)))

    def strays(self, rows: pa.RecordBatch, key: Sequence[str]) -> pa.RecordBatch:
        """The stored rows among these that are another shard's; of a history's rows never a TRUNCATE."""
        if self.count == 1:
            return rows.slice(0, 0)
        return rows.filter(pa.array(~(self._owns(rows, key) | _truncates(rows))))

    def _owns(self, rows: pa.RecordBatch, key: Sequence[str]) -> npt.NDArray[np.bool_]:
        if key:
            return np.equal(shard_of(rows, key, self.count), self.index)
        return np.full(rows.num_rows, self.index == 0)


def _truncates(rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    if OP not in rows.schema.names:
        return np.zeros(rows.num_rows, dtype=np.bool_)
    return np.asarray(rows.column(OP).to_numpy() == Op.TRUNCATE)
