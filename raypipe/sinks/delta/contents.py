"""Reads one version of a Delta table back in the types of its relation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from raypipe.errors import InvariantBroken
from raypipe.model import IMAGE, OP, SYSTEM_FIELDS, Committed, Mode, SinkTable
from raypipe.model.change import BRANCH_FIELD
from raypipe.sinks.delta.failures import says_why
from raypipe.sinks.delta.lake import Lake
from raypipe.sinks.delta.layout import number_of_word
from raypipe.sinks.delta.types import decode


class DeltaContents:
    """What ``DeltaSink.contents`` gives; see the contract."""

    def __init__(self, sink: str, path: Path, table: SinkTable, lake: Lake | None, committed: Committed) -> None:
        self.committed = committed
        self._sink = sink
        self._path = path
        self._table = table
        self._lake = lake

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        """Rows as a stream; a column the table does not have yet is NULL."""
        if table != self._table.name:
            raise InvariantBroken(f"Sink {self._sink} has no table {table}.")
        if self._lake is None:
            return
        schema = self._table.schema
        system = SYSTEM_FIELDS if self._table.mode is Mode.HISTORY else ()
        branch = (BRANCH_FIELD,) if schema.branches > 1 else ()
        wanted = pa.schema([*system, *branch, *schema.arrow()])
        with says_why(self._sink, self._path):
            held = self._lake.columns.names
            for batch in self._lake.scan([name for name in wanted.names if name in held]):
                yield pa.RecordBatch.from_arrays([_column(batch, field) for field in wanted], schema=wanted)


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(field.name)
    return number_of_word(field.name, column) if field.name in (OP, IMAGE) else decode(column, field.type)
