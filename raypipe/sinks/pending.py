"""Accepted batches wait here to be applied together: a statement costs milliseconds, a row microseconds."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from raypipe.model import ChangeBatch

# What may wait in memory, over all tables of a sink. Larger statements gain nothing more, measured with DuckDB.
APPLY_ROWS = 100_000
APPLY_BYTES = 32 << 20


class PendingBatches:
    """Batches of each table, in order."""

    def __init__(self) -> None:
        self._batches: dict[str, list[ChangeBatch]] = {}
        self._rows = 0
        self._bytes = 0

    def add(self, table: str, batch: ChangeBatch) -> Iterator[tuple[str, ChangeBatch]]:
        """Takes a batch; yields what must be applied now."""
        if not batch.num_rows:
            return
        waiting = self._batches.setdefault(table, [])
        if waiting and (waiting[-1].schema != batch.schema or waiting[-1].rows.schema != batch.rows.schema):
            yield table, _joined(waiting)
            waiting.clear()
        waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.rows.nbytes
        if self._rows >= APPLY_ROWS or self._bytes >= APPLY_BYTES:
            yield from self.take()

    def take(self) -> Iterator[tuple[str, ChangeBatch]]:
        """Everything that waits, a batch for each table."""
        batches, self._batches, self._rows, self._bytes = self._batches, {}, 0, 0
        for table, waiting in batches.items():
            if waiting:
                yield table, _joined(waiting)


def _joined(batches: list[ChangeBatch]) -> ChangeBatch:
    if len(batches) == 1:
        return batches[0]
    return ChangeBatch(schema=batches[0].schema, rows=pa.concat_batches([batch.rows for batch in batches]))
