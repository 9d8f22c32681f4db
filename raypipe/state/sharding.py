"""Shares of the state: ranges of key hashes, so that another number of shards takes contiguous parts of sorted runs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.contracts import TraceSchema
from raypipe.state.order import fit, plain_schema
from raypipe.state.places import KEY_BITS, first_places

_LINEAGES = uuid.UUID("7f0e61c2-6a53-4c47-9a0e-6a5a0f2e3c11")
_HASHES = 1 << int(KEY_BITS)


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of ``shards`` equal ranges of key hashes; rows of a trace without a key are all in the first."""

    shard: int
    shards: int

    @property
    def low(self) -> int:
        """Lowest place that belongs to it."""
        return -(-self.shard * _HASHES // self.shards) << int(KEY_BITS)

    @property
    def high(self) -> int:
        """Highest place that belongs to it."""
        return (-(-(self.shard + 1) * _HASHES // self.shards) << int(KEY_BITS)) - 1


WHOLE = Share(shard=0, shards=1)


def lineage_of(lineages: Sequence[str]) -> str:
    """One lineage for all shards, which is another one when that of any of them is; what they agree on, if they do."""
    if len(set(lineages)) == 1:
        return lineages[0]
    return str(uuid.uuid5(_LINEAGES, " ".join(lineages)))


def shard_of(keys: pa.Table, schema: TraceSchema, shards: int) -> npt.NDArray[np.int64]:
    """The shard of each row by its key in a trace, 0 to ``shards`` - 1: the one whose ``Share`` holds it.

    Raises:
        SchemaMismatch: a key column is missing, or does not fit the trace's type.
    """
    columns = plain_schema(pa.schema([schema.columns.field(name) for name in schema.key]))
    shares = [np.zeros(0, dtype=np.int64)]
    for batch in fit(keys, columns, schema.name).to_batches():
        hashes = first_places(batch, schema.key) >> KEY_BITS
        shares.append(((hashes * np.uint64(shards)) >> KEY_BITS).astype(np.int64))
    return np.concatenate(shares) if schema.key else np.zeros(keys.num_rows, dtype=np.int64)
