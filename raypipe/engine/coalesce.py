"""Makes batches of a useful size out of many small ones: ten rows cost a step as much as ten thousand.

Only the order within a topic means anything to a step or a sink (a TRUNCATE empties its own branch and no other), so
small batches of one topic may wait for each other while batches of other topics pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from raypipe.contracts import LogBatch
from raypipe.model import ChangeBatch, TableSchema

# Enough for DuckDB's vectors to pay off; a few MiB of typical rows.
USEFUL_ROWS = 65_536


@dataclass
class _Gathered:
    schema: TableSchema
    parts: list[pa.RecordBatch] = field(default_factory=list)
    rows: int = 0

    def joined(self) -> ChangeBatch:
        rows = self.parts[0] if len(self.parts) == 1 else pa.concat_batches(self.parts)
        return ChangeBatch(self.schema, rows)


def coalesce(batches: Iterable[LogBatch], useful_rows: int = USEFUL_ROWS) -> Iterator[tuple[str, ChangeBatch]]:
    """Joins consecutive batches of a topic that have one schema, up to about ``useful_rows``.

    Args:
        batches: As read from the log.
        useful_rows: A joined batch is handed on as soon as it has so many row images.

    Yields:
        (topic, changes); each topic's changes in their order, nothing left out.
    """
    gathered: dict[str, _Gathered] = {}
    for logged in batches:
        topic, batch = logged.topic, logged.batch
        waiting = gathered.get(topic)
        if waiting is not None and waiting.schema != batch.schema:
            yield topic, gathered.pop(topic).joined()
            waiting = None
        if waiting is None:
            waiting = gathered[topic] = _Gathered(batch.schema)
        waiting.parts.append(batch.rows)
        waiting.rows += batch.num_rows
        if waiting.rows >= useful_rows:
            yield topic, gathered.pop(topic).joined()
    for topic, waiting in gathered.items():
        yield topic, waiting.joined()
