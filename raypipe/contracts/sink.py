"""What a sink is: one unit of commit in one store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import pyarrow as pa

from raypipe.model import ChangeBatch, Committed, Epoch, SinkTable


class SinkContents(Protocol):
    """What a sink holds in one read transaction: what ``verify`` compares with the oracle."""

    committed: Committed

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        """Rows of one of its tables, the relation's columns in order (plus ``BRANCH`` if the relation has branches).

        A history table yields its change rows instead: ``OP``, ``IMAGE``, ``COMMIT``, ``ORDINAL``, ``TIME``, then
        (``BRANCH`` and) the columns, with ``OP`` as in ``raypipe.model.Op``.
        """
        ...


@runtime_checkable
class HoldsAShare(Protocol):
    """Contents of a unit of commit that holds some of a sink's rows, and can tell which are not its own."""

    def strays(self, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Those of the rows, as ``SinkContents.rows`` gave them, that belong into another unit of the sink."""
        ...


class Sink(Protocol):
    """One unit of commit: a database with all its tables, one Delta table, one shard.

    The protocol of an epoch is ``begin``, ``write`` any number of times, ``commit``. What ``write`` took is
    *accepted*; only what ``commit`` returned is *durable*. After any error the object is opened again with a new
    generation, and what ``open`` returns decides how to go on. Driven by one thread.

    Rules every sink keeps:

    * ``open`` claims the store durably: from then on a lower generation cannot commit, not even one that was
      paused between its last check and its commit.
    * Data, cut and generation change in one transaction of the store.
    * ``commit`` of an epoch the store already holds changes nothing and returns what is held.
    * A table that is new, or whose ``view`` differs from the stored one, is emptied by ``open`` and *awaits* all its
      branches; changes of an awaited branch are ignored until its TRUNCATE arrives.
    * A column that comes is added; one that goes away stays and holds NULL. A type that changes is widened if no
      value is lost by it, else refused.
    """

    name: str
    tables: tuple[SinkTable, ...]

    def open(self, generation: int) -> Committed:
        """Connects, creates what is missing, claims the store and tells what it holds.

        Raises:
            Fenced: a higher generation has claimed the store.
            Unavailable: locked, full, read-only or away.
            SchemaMismatch: a type the store cannot hold, or a table of that name that raypipe did not make.
        """
        ...

    def begin(self, epoch: Epoch) -> None:
        """Starts an epoch; drops whatever an unfinished one left."""
        ...

    def write(self, table: str, batch: ChangeBatch) -> None:
        """Accepts changes of one of its tables, in order."""
        ...

    def commit(self) -> Committed:
        """Makes the epoch durable, with its cut and generation.

        Raises:
            Fenced: a higher generation has claimed the store; nothing was written.
            Conflict: provably rejected; nothing was written.
            OutcomeUnknown: no answer; open again to see.
            Unavailable: nothing was written.
        """
        ...

    def abort(self) -> None:
        """Drops the unfinished epoch; idempotent."""
        ...

    def rest(self) -> None:
        """No epoch is waiting: lets go of locks that keep other readers out; the next ``begin`` takes them again."""
        ...

    def contents(self) -> AbstractContextManager[SinkContents]:
        """Reads the store in one transaction, on an object that need not be open; claims nothing."""
        ...

    def close(self) -> None:
        """Releases connections; idempotent, never commits."""
        ...
