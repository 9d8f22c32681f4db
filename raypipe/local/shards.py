"""The shards of the state: which rows each of them has, and what they pass to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe import faults
from raypipe.contracts import TraceSchema
from raypipe.state import shard_of

T = TypeVar("T")


class Post(Protocol):
    """Carries parcels between the shards of one epoch."""

    def swap(self, parcels: Sequence[Any]) -> list[Any]:
        """Gives the i-th parcel to shard i; returns what each shard gave to this one, in their order.

        Raises:
            OutcomeUnknown: the others do not carry this epoch any more.
        """
        ...


class Shards:
    """See ``steps.views.Exchange``.

    Args:
        shard: Number of this one, from 0.
        shards: How many there are.
        post: Between them.
    """

    def __init__(self, shard: int, shards: int, post: Post) -> None:
        self.shard = shard
        self.shards = shards
        self._post = post

    def by_key(self, rows: pa.Table, schema: TraceSchema) -> pa.Table:
        """See ``Exchange``."""
        at = self._shards(rows, schema)
        # Taken, not sliced: a slice would be sent with all that it was cut from.
        parcels = [rows.filter(pa.array(at == shard)) if rows.num_rows else rows for shard in range(self.shards)]
        return pa.concat_tables(self._post.swap(parcels))

    def gather(self, value: T) -> list[T]:
        """See ``Exchange``."""
        return self._post.swap([value] * self.shards)

    def mine(self, rows: pa.Table, schema: TraceSchema) -> npt.NDArray[np.bool_]:
        """See ``Exchange``."""
        mine: npt.NDArray[np.bool_] = self._shards(rows, schema) == self.shard
        return mine

    def _shards(self, rows: pa.Table, schema: TraceSchema) -> npt.NDArray[np.int64]:
        at = shard_of(rows, schema, self.shards)
        if faults.armed("mutant.shard_unset_key") and schema.key and rows.num_rows:
            at[rows.column(schema.key[0]).is_null().to_numpy(zero_copy_only=False)] = self.shard
        return at
