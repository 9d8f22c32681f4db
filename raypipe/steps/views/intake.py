"""What the shards of the state take in of a batch, made without any state: so by whoever has the batch.

That is each shard's rows, in the columns that its steps read, and what operators that look at single rows make of
those. Whether a row counts in the end only its shard knows, which may hold a later image of the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.contracts import WEIGHT_FIELD, TraceSchema
from raypipe.errors import LimitExceeded
from raypipe.model import OP, ChangeBatch, Op
from raypipe.plan.model import Plan
from raypipe.steps.views.epoch import Views
from raypipe.steps.views.feed import Feed, coming
from raypipe.steps.views.portion import Portion
from raypipe.steps.views.view import View

# The shard, of so many, of each row by its key in a trace.
ShardOf = Callable[[pa.Table, TraceSchema, int], npt.NDArray[np.int64]]


class Intake:
    """Divides batches among shards. Used by one thread.

    Args:
        plan: Of the pipeline.
        wanted: Relations that sinks are fed from.
        shards: Of the state.
        shard_of: Says whose a row is.

    Attributes:
        relations: That it divides. What row-wise steps between stateful ones read, every shard takes whole.
    """

    def __init__(self, plan: Plan, wanted: Collection[str], shards: int, shard_of: ShardOf) -> None:
        self._views = Views(plan, wanted)
        self._shards = shards
        self._shard_of = shard_of
        self.relations = self._views.divided

    def portions(self, relation: str, batch: ChangeBatch) -> Iterator[tuple[int, Portion]]:
        """Yields (shard, portion) for each input that is fed from a relation and every shard that has rows of it.

        Args:
            relation: One of ``relations``.
            batch: Its changes.

        Raises:
            SchemaMismatch: a column is gone, or its type became another.
        """
        for feed, readers in self._views.readers(relation):
            rows = feed.selected(batch)
            whole = Portion(trace=feed.trace.name, rows=rows, ahead=_ahead(feed, readers, rows))
            if self._shards == 1:
                yield 0, whole
                continue
            everywhere = rows.column(OP).to_numpy() == Op.TRUNCATE
            at = self._shard_of(rows, feed.trace, self._shards)
            for shard in range(self._shards):
                mine = everywhere | (at == shard)
                if mine.any():
                    yield shard, whole.only(mine)

    def close(self) -> None:
        """Ends what it computes with; idempotent."""
        self._views.close()


def _ahead(feed: Feed, readers: Sequence[View], rows: pa.Table) -> dict[tuple[str, str], pa.Table] | None:
    """See ``Portion.ahead``; nothing of an input without a key, whose rows go as they come."""
    readers = [view for view in readers if view.foresees(feed.relation)]
    if not readers or not feed.trace.key:
        return {}
    numbers = np.flatnonzero(coming(rows))
    come = rows if len(numbers) == rows.num_rows else rows.take(pa.array(numbers))
    # Operators carry the weight of a row along, so its number in that place comes out beside what is made of it.
    given = come.select(feed.columns.names).append_column(WEIGHT_FIELD, pa.array(numbers, pa.int64()))
    try:
        return {
            (view.name, name): table for view in readers for name, table in view.ahead(feed.relation, given).items()
        }
    except (duckdb.Error, LimitExceeded):
        return None
