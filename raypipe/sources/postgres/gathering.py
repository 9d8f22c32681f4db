"""What one piece gathers: batches in order, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raypipe.model import ChangeBatch
from raypipe.sources.postgres.events import Rows

# Joining costs a copy. A batch of this size gains nothing by it: the log would take it apart again.
LARGE_BYTES = 2 << 20


@dataclass(kw_only=True)
class Gathered:
    """Batches of a piece, in source order.

    Attributes:
        batches: As they came; of one table many, if many runs of rows came.
        bytes: Of them in memory.
        parked: Rows that this piece put into quarantine.
    """

    batches: list[ChangeBatch] = field(default_factory=list)
    bytes: int = 0
    parked: int = 0

    def add(self, batch: ChangeBatch) -> None:
        """Appends a batch; one without rows is left out."""
        if batch.num_rows:
            self.batches.append(batch)
            self.bytes += batch.rows.nbytes

    def joined(self) -> tuple[ChangeBatch, ...]:
        """The batches of each table and schema version, small ones joined, in the order in which the tables began.

        Only what is of one table keeps its order then, which is all that the log keeps too.
        """
        groups: dict[object, list[ChangeBatch]] = {}
        newest: dict[object, int] = {}
        for batch in self.batches:
            table = batch.schema.table
            # A version that comes back after another one is a group of its own: changes of a table stay in order.
            last = groups.get((table, newest.get(table, 0)))
            if last is None or last[-1].schema != batch.schema:
                newest[table] = newest.get(table, 0) + 1
            groups.setdefault((table, newest[table]), []).append(batch)
        return tuple(batch for group in groups.values() for batch in _joined(group))


def _joined(group: list[ChangeBatch]) -> Iterator[ChangeBatch]:
    waiting: list[ChangeBatch] = []
    size = 0
    for batch in group:
        waiting.append(batch)
        size += batch.rows.nbytes
        if size >= LARGE_BYTES:
            yield _one(waiting)
            waiting, size = [], 0
    if waiting:
        yield _one(waiting)


def _one(batches: list[ChangeBatch]) -> ChangeBatch:
    if len(batches) == 1:
        return batches[0]
    return ChangeBatch(batches[0].schema, pa.concat_batches([batch.rows for batch in batches]))


def fitting(rows: Rows, first: int, last: int, count: int, room: int) -> tuple[int, bool]:
    """Where to end so that about ``room`` bytes are taken, at the end of a transaction if there is one; and if cut."""
    if last <= first or int(rows.end[last - 1] - rows.at[first]) <= room:
        return last, False
    sizes = np.cumsum(rows.end[first:last] - rows.at[first:last])
    fit = first + int(np.searchsorted(sizes, room)) + 1
    if fit >= last:
        return last, False
    transactions = rows.transactions
    ends = transactions.end_row[:count][transactions.end_lsn[:count] > 0]
    place = int(np.searchsorted(ends, fit, side="right")) - 1
    if place >= 0 and ends[place] > first:
        fit = int(ends[place])
    return fit, True
