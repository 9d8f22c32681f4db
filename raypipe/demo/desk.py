"""Where a writer of the demo works: one database's way of beginning, ending and refusing a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from raypipe.demo import bookkeeping, books, shop, trade
from raypipe.demo.trade import Deal

# Serialization failure, deadlock: try again. A lock that was waited for too long, likewise.
_BUSY_STATES = ("40001", "40P01", "55P03")
_CONSTRAINT_CLASS = "23"


class Busy(Exception):
    """Others are in the way; the same transaction may be tried again."""


class Refused(Exception):
    """A constraint forbade the transaction."""


class Desk(Protocol):
    """A connection of one writer.

    Attributes:
        deals: Kinds of transaction made here.
        connection: Handed to them.
    """

    deals: Sequence[Deal]
    connection: Any

    def begin(self) -> None:
        """Begins a transaction.

        Raises:
            Busy: try again.
        """
        ...

    def commit(self) -> None:
        """Ends it for good; raises as ``begin`` does."""
        ...

    def roll_back(self) -> None:
        """Undoes it; does nothing if there is none."""
        ...

    def meaning(self, error: Exception) -> Exception:
        """What an error within a transaction means: ``Busy``, ``Refused``, or itself."""
        ...

    def close(self) -> None:
        """Lets the database go."""
        ...


class ShopDesk:
    """In the shop's SQLite database."""

    def __init__(self, path: Path) -> None:
        self.deals: Sequence[Deal] = trade.DEALS
        self.connection = shop.connect(path)

    def begin(self) -> None:
        """At once for writing, so that it need not fail later."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """See ``Desk``."""
        self.connection.execute("COMMIT")

    def roll_back(self) -> None:
        """See ``Desk``."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def meaning(self, error: Exception) -> Exception:
        """See ``Desk``."""
        if isinstance(error, sqlite3.IntegrityError):
            return Refused()
        # The low byte is the primary code: SQLITE_BUSY_SNAPSHOT and its kind count as busy too.
        busy = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        )
        return Busy() if busy else error

    def close(self) -> None:
        """See ``Desk``."""
        self.connection.close()


class BooksDesk:
    """In the PostgreSQL database of the books."""

    def __init__(self, url: str) -> None:
        self.deals: Sequence[Deal] = bookkeeping.DEALS
        self.connection = books.connect(url)
        self._within = False

    def begin(self) -> None:
        """See ``Desk``."""
        self.connection.run("BEGIN")
        self._within = True

    def commit(self) -> None:
        """See ``Desk``."""
        self.connection.run("COMMIT")
        self._within = False

    def roll_back(self) -> None:
        """See ``Desk``."""
        if self._within:
            self._within = False
            self.connection.run("ROLLBACK")

    def meaning(self, error: Exception) -> Exception:
        """See ``Desk``."""
        told = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        state = str(told.get("C", ""))
        if state in _BUSY_STATES:
            return Busy()
        return Refused() if state.startswith(_CONSTRAINT_CLASS) else error

    def close(self) -> None:
        """See ``Desk``."""
        with suppress(Exception):  # a server that is gone already has closed it
            self.connection.close()
