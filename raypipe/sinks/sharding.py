"""Spreads the rows of a sink over several equal stores, by the hash of ``raypipe.codec.keyhash``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
        truncates = batch.rows.column(OP).to_numpy() == Op.TRUNCATE
        if batch.schema.key:
            mine = shard_of(batch.rows, batch.schema.key, self.count) == self.index
        else:
            mine = np.full(batch.num_rows, self.index == 0)
        return ChangeBatch(schema=batch.schema, rows=batch.rows.filter(pa.array(mine | truncates)))
