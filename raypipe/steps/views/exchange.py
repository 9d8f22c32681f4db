"""How the shards of the state pass rows to each other while they carry an epoch together.

Every shard runs the same operators over its own share of the rows, in step: the n-th exchange of one is the n-th of
all. A row belongs to the shard that holds its key; operators and tables without a key belong to the first.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.contracts import TraceSchema

T = TypeVar("T")


class Exchange(Protocol):
    """What one shard sees of the others. Used by one thread.

    Attributes:
        shard: Number of this one, from 0.
        shards: How many there are.
    """

    shard: int
    shards: int

    def by_key(self, rows: pa.Table, schema: TraceSchema) -> pa.Table:
        """Gives each row to the shard that has its key in a trace; returns what all of them gave this one.

        Raises:
            OutcomeUnknown: the others do not carry this epoch any more.
        """
        ...

    def gather(self, value: T) -> list[T]:
        """Gives a value to every shard; returns those of all, in the order of the shards.

        Raises:
            OutcomeUnknown: the others do not carry this epoch any more.
        """
        ...

    def mine(self, rows: pa.Table, schema: TraceSchema) -> npt.NDArray[np.bool_]:
        """Which rows belong to this shard by their key in a trace. Asks nobody."""
        ...


class Alone:
    """All of the state is one shard."""

    shard = 0
    shards = 1

    def by_key(self, rows: pa.Table, schema: TraceSchema) -> pa.Table:  # noqa: ARG002 - all keys are here
        """See ``Exchange``."""
        return rows

    def gather(self, value: T) -> list[T]:
        """See ``Exchange``."""
        return [value]

    def mine(self, rows: pa.Table, schema: TraceSchema) -> npt.NDArray[np.bool_]:  # noqa: ARG002 - likewise
        """See ``Exchange``."""
        return np.ones(rows.num_rows, np.bool_)


ALONE = Alone()
