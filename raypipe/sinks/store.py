"""What a transactional sink asks of a database: small statements, all in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa

from raypipe.sinks.ledger import Ledger


class Snapshot(Protocol):
    """A store in one read transaction."""

    ledger: Ledger

    def columns(self, table: str) -> pa.Schema | None:
        """As ``Store.columns``."""
        ...

    def rows(self, table: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All rows; ``columns`` are some of the table's, with their stored types. One iterator at a time."""
        ...


class EmptySnapshot:
    """The snapshot of a store that does not exist yet."""

    ledger = Ledger()

    def columns(self, table: str) -> pa.Schema | None:  # noqa: ARG002
        """No table."""
        return None

    def rows(self, table: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:  # noqa: ARG002
        """No rows."""
        return iter(())


class Store(Protocol):
    """A database in which data and ledger change together. Every method raises ``RaypipeError`` only.

    Rows come with stored types (``raypipe.sinks.types``). Equality is SQL's ``IS NOT DISTINCT FROM``.
    """

    where: str  # for messages; holds no secret

    def connect(self) -> None:
        """Connects if it is not connected."""
        ...

    def disconnect(self) -> None:
        """Rolls back and disconnects; idempotent, never raises."""
        ...

    def rest(self) -> None:
        """Outside a transaction: lets go of locks that keep other readers out."""
        ...

    def begin(self) -> None:
        """Starts a transaction, with the right to write where the store gives it to one at a time."""
        ...

    def commit(self) -> None:
        """Makes the transaction durable."""
        ...

    def rollback(self) -> None:
        """Ends the transaction, if there is one, and forgets it."""
        ...

    def read_ledger(self) -> Ledger:
        """The sink's row, or an empty ledger."""
        ...

    def write_ledger(self, ledger: Ledger, fence: int) -> bool:
        """Replaces the sink's row unless a generation above ``fence`` stands there; tells whether it did."""
        ...

    def columns(self, table: str) -> pa.Schema | None:
        """A table's columns with their stored types; None if there is no such table.

        Raises:
            SchemaMismatch: a column has a type that raypipe does not make.
        """
        ...

    def create(self, table: str, columns: pa.Schema) -> None:
        """Creates an empty table."""
        ...

    def drop(self, table: str) -> None:
        """Drops a table."""
        ...

    def widen(self, table: str, before: pa.Schema, after: pa.Schema) -> None:
        """Adds columns and widens types; ``after`` begins with the columns of ``before``."""
        ...

    def index(self, table: str, identity: list[str]) -> None:
        """Makes finding rows by these columns fast, if the store needs telling."""
        ...

    def insert(self, table: str, rows: pa.Table) -> None:
        """Adds rows."""
        ...

    def delete_all(self, table: str) -> None:
        """Removes all rows."""
        ...

    def delete_matching(self, table: str, keys: pa.Table) -> None:
        """Removes the rows that equal some row of ``keys`` in all of its columns."""
        ...

    def replace(self, table: str, upserts: pa.Table, deletes: pa.Table) -> None:
        """Removes the rows with the identities of both, adds the upserts; the store may wait with it until it must.

        Args:
            table: Of the store.
            upserts: Rows with all columns of the table, one for each identity.
            deletes: Identities; none is among the upserts.
        """
        ...

    def delete_copies(self, table: str, rows: pa.Table, copies: pa.Array) -> int:
        """Removes as many copies of each (distinct) row; returns how many it found in all."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Reads in one transaction of its own, connected or not."""
        ...
