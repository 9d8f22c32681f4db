"""What differs between SQL databases; everything else is SQLAlchemy Core in ``store.py``.

SQLAlchemy writes the statements; an ADBC driver runs them, because it takes Arrow columns as they are. One connection
runs all of it, so rows, ledger and tables change in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa
import sqlalchemy as sa


class Dialect(Protocol):
    """One kind of database."""

    name: str  # for messages
    begin: str  # the statement that starts a transaction and takes the right to write
    reserved: frozenset[str]  # names, in small letters, that no column may have
    quoting: sa.Dialect

    def exists(self) -> bool:
        """Whether there is a database to read."""
        ...

    def connect(self) -> Any:
        """An ADBC connection in autocommit mode: transactions begin and end by statements."""
        ...

    def connect_to_read(self) -> Any:
        """Likewise, for a snapshot."""
        ...

    def translated(self) -> AbstractContextManager[None]:
        """Turns the driver's errors into ours."""
        ...

    def declared(self, stored: pa.DataType) -> str:
        """The type to declare for a stored type."""
        ...

    def columns(self, cursor: Any, table: str) -> list[tuple[str, pa.DataType | None]]:
        """Names and stored types of a table's columns; none if there is no such table."""
        ...

    def encode(self, table: str, rows: pa.Table) -> pa.Table:
        """Rows with stored types as the driver takes them."""
        ...

    def read(self, cursor: Any, table: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All rows of a table with their stored types."""
        ...

    def widen(self, table: sa.Table, before: pa.Schema, after: pa.Schema, cursor: Any) -> Sequence[str]:
        """Statements that add and widen columns."""
        ...

    def delete_matching(self, table: sa.Table, staged: sa.Table, names: Sequence[str]) -> str:
        """The statement that deletes rows equal to a staged row in all of the named columns."""
        ...

    def delete_copies(self, table: sa.Table, staged: sa.Table, names: Sequence[str], number: str, copies: str) -> str:
        """The statement that deletes as many copies of each staged row, found by ``number``, as ``copies`` says."""
        ...

    def changed_rows(self, cursor: Any) -> int:
        """Rows the last statement changed."""
        ...
