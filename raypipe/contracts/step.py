"""What a step is: a transform from changes of its inputs to changes of its own relation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from raypipe.model import ChangeBatch, TableSchema


class Step(Protocol):
    """A named transform, used unchanged by every executor; deterministic: the same batches in, the same bytes out."""

    name: str
    schema: TableSchema

    def apply(self, relation: str, batch: ChangeBatch) -> Iterator[ChangeBatch]:
        """Turns changes of one of its input relations into changes of the step's relation, in order.

        Raises:
            SqlError: the SQL failed on the data; names step and column, never a value.
            SchemaMismatch: the input no longer has a column the step needs.
        """
        ...

    def close(self) -> None:
        """Releases what it holds; idempotent."""
        ...
