"""What a source is: a database that changes are read from, in order, from a position it can name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from raypipe.model import ChangeBatch, TableSchema


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one ``poll`` found: whole changes in source order, and where the reader stands after them.

    Attributes:
        batches: Changes of the captured tables, in source order over all tables as far as one batch per table and
            piece allows: changes of one table are in order, and a TRUNCATE stands before the rows that follow it.
        position: Text; giving it to ``open`` continues exactly after this piece.
        boundary: True if the piece ends on a transaction boundary, so that a cut may follow.
        loading: Tables (``instance.table``) whose snapshot is unfinished after this piece.
        pending: Changes known to wait in the source after this piece, an estimate; None if unknown.
        parked: Rows put into quarantine by this piece, minus rows released.
        answered: Requests (``ReadAgain.id``) that need not be given again once this piece is in the log.
    """

    batches: tuple[ChangeBatch, ...]
    position: str
    boundary: bool
    loading: tuple[str, ...] = ()
    pending: int | None = None
    parked: int = 0
    answered: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReadAgain:
    """A wish that some rows of a table are read again beside the stream, and no others touched.

    Attributes:
        id: Orders the wishes for one instance; a wish that was answered already may be given again, at no harm.
        table: ``instance.table``; it has a key.
        where: SQL condition of the source's own dialect: the rows for which it holds; empty if keys are named.
        keys: Keys whose rows are read, each as texts in key order; those that have no row are told as deletes.
        last: Of a repair: with it the table is sure again (see ``CanBeRepaired``).
    """

    id: str
    table: str
    where: str = ""
    keys: tuple[tuple[str, ...], ...] = ()
    last: bool = False


class SourceView(Protocol):
    """The captured tables as they stand in one read transaction: the oracle's input."""

    position: str

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        """Present rows of a table (``instance.table``), the table's columns only, types as in the stream.

        Rows in quarantine are left out here as they are in the stream.
        """
        ...

    def parked(self, table: str) -> int:
        """How many rows of the table are in quarantine, by the source's stated rule."""
        ...


@runtime_checkable
class CanPauseLoads(Protocol):
    """A source whose loads can rest while its stream goes on."""

    def pause_loads(self, paused: bool) -> None:
        """From the next ``poll`` on nothing of a loading table is read, or again is."""
        ...


@runtime_checkable
class CanReadAgain(Protocol):
    """A source that can read a part of a table again while its stream goes on."""

    def check_condition(self, table: str, condition: str) -> None:
        """Finds out whether a condition is one of a table, without reading a row; on an object that need not be open.

        Raises:
            RaypipeError: of kind PIPELINE_FILE: it is none, or the table has no key by which its rows are replaced.
        """
        ...

    def read_again(self, wish: ReadAgain) -> None:
        """Takes up a wish at the next boundary; one that is known already is left as it is."""
        ...


@runtime_checkable
class KeepsForUs(Protocol):
    """A source whose database keeps its own log for us, on its own disk."""

    def kept(self) -> Mapping[str, int]:
        """What it keeps now, by name: ``kept_bytes`` that were not acknowledged yet, and ``safe_bytes`` that it will
        still write before it gives up on us, if it has such a bound.
        """
        ...


@runtime_checkable
class MayTear(Protocol):
    """A source that cannot always tell which changes of different tables were one transaction."""

    def tears(self) -> str | None:
        """Why a cut may hold a part of a transaction, and what would help, in a sentence; None if no cut does."""
        ...


class Source(Protocol):
    """One instance. Not thread-safe; one object is driven by one thread."""

    instance: str

    def tables(self) -> tuple[TableSchema, ...]:
        """Schemas of the chosen tables, read without side effects.

        Raises:
            SchemaMismatch: a table does not exist (the message lists those that do).
        """
        ...

    def install(self) -> None:
        """Begins to capture the chosen tables: puts in what the database needs for it; idempotent.

        Raises:
            SchemaMismatch: a table does not exist or cannot be captured.
            Unavailable: locked, read-only or away.
        """
        ...

    def remove(self) -> None:
        """Takes every trace of the capture out of the database; idempotent.

        Raises:
            Unavailable: locked, read-only or away.
        """
        ...

    def open(self, position: str | None, reload: Collection[str] = ()) -> None:
        """Goes to a position; None installs the capture and begins with a snapshot of every table.

        Args:
            position: As a ``Piece`` gave it, last committed in the log.
            reload: Tables (``instance.table``) to load again from the start, in chunks beside the stream.

        Raises:
            SourceGap: what follows the position is no longer there: another database, an older copy, changes
                pruned by somebody else.
            Unavailable: locked or away.
        """
        ...

    def poll(self, max_bytes: int, upto: str | None = None) -> Piece | None:
        """The next piece, about ``max_bytes`` at most; None if there is nothing new.

        Every load of a table, first or repeated, begins with a TRUNCATE change of it.

        Args:
            max_bytes: Soft bound of the piece in memory.
            upto: Do not read beyond this position (``SourceView.position``); the piece that reaches it ends there
                with ``boundary``.
        """
        ...

    def wait(self, timeout_s: float) -> bool:
        """Returns as soon as there may be something new, at the latest after the timeout; False if there is not yet."""
        ...

    def acknowledge(self, position: str) -> None:
        """Everything up to the position is durable in the log: the source may forget it (and may do so lazily)."""
        ...

    def view(self) -> AbstractContextManager[SourceView]:
        """One read transaction over all chosen tables; on an object that need not be open.

        It stays open until whoever is asked to ``poll`` up to its position has done so.
        """
        ...

    def progress(self) -> Mapping[str, float]:
        """Share of each loading table that is loaded, 0 to 1, an estimate."""
        ...

    def close(self) -> None:
        """Releases connections; idempotent."""
        ...
