"""Connections to the source file, the transactions on them, and what SQLite's errors mean to a user.

Every access to the source goes through Python's own ``sqlite3``, never through a second copy of the SQLite library
in this process (the ADBC driver carries one): POSIX locks belong to the process, so two copies do not see each
other's, and either drops the other's when it closes the file (https://www.sqlite.org/howtocorrupt.html, 2.2.1). An
application that runs raypipe beside its own ``sqlite3`` connection would lose its database to that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from raypipe.disks import Hindrance, hindrance
from raypipe.errors import Corrupt, Kind, RaypipeError, SchemaMismatch, Unavailable

# How long one statement waits for a lock. A writer's commit takes milliseconds; whoever holds the file longer is
# reported as Unavailable, which runners retry with a back-off, so nothing hangs inside SQLite.
BUSY_TIMEOUT_S = 1.0


def path_of(url: str) -> Path:
    """The file that ``sqlite:///path`` names (``sqlite:////path`` when absolute).

    Raises:
        RaypipeError: the URL names no file.
    """
    prefix, _, path = url.partition(":///")
    if prefix != "sqlite" or not path or path == ":memory:":
        raise RaypipeError(
            "A SQLite source needs the path of a database file.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write sqlite:///relative/path.db or sqlite:////absolute/path.db.",
        )
    return Path(path)


def quoted(name: str) -> str:
    """A name as SQL, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


def connect(path: Path) -> sqlite3.Connection:
    """Opens an existing database; transactions are begun and ended by hand.

    Raises:
        Unavailable: there is no such file, or it cannot be opened.
    """
    if not path.is_file():
        raise Unavailable(
            f"The SQLite source {path} does not exist.", remedy="Check the path in the pipeline file, or create it."
        )
    with answers(path):
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=BUSY_TIMEOUT_S,
            check_same_thread=False,  # an actor may call from changing threads, never from two at once
        )
        try:
            connection.execute("PRAGMA schema_version").fetchone()  # the first read: is this a database at all
        except sqlite3.Error:
            connection.close()
            raise
        return connection


@contextmanager
def inspecting(path: Path) -> Iterator[sqlite3.Connection]:
    """A short-lived connection that cannot write, inside one read transaction."""
    connection = connect(path)
    try:
        with answers(path):
            connection.execute("PRAGMA query_only=ON")
            with reading(connection):
                yield connection
    finally:
        connection.close()


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """One read transaction: everything inside sees the database at one moment."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        _roll_back(connection)
        raise
    connection.execute("COMMIT")


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction, which holds the write lock from its first moment."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite ends it by itself when the disk is full
        connection.execute("ROLLBACK")


_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another connection",
    sqlite3.SQLITE_LOCKED: "is locked by another connection",
    sqlite3.SQLITE_READONLY: "is read-only, and raypipe must write its capture tables into it",
    sqlite3.SQLITE_FULL: "cannot be read: a disk is full (its own, or that of the temporary directory)",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "cannot be opened for lack of permission",
    sqlite3.SQLITE_AUTH: "cannot be opened for lack of permission",
    sqlite3.SQLITE_IOERR: "cannot be read: the operating system reports an input/output error",
    sqlite3.SQLITE_PROTOCOL: "is too busy",
    sqlite3.SQLITE_SCHEMA: "changes its schema faster than it can be read",
}


# What SQLite says where it cannot make a file beside the source or let it grow, and what that may mean.
_VAGUE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
_VAGUE_MEANS = {Hindrance.FULL: sqlite3.SQLITE_FULL, Hindrance.READ_ONLY: sqlite3.SQLITE_READONLY}


@contextmanager
def answers(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into raypipe's.

    Raises:
        Unavailable: locked, full, read-only or away; a retry may work.
        Corrupt: not a database, or a damaged one.
        SchemaMismatch: SQL that the database cannot run, such as a collation only its application knows.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise Corrupt(
                f"The SQLite source {path} is not a sound database file.",
                remedy="Run PRAGMA integrity_check on it, and restore it if it fails.",
                cause=error,
            ) from error
        if primary in _VAGUE and (found := hindrance(path)):
            primary = _VAGUE_MEANS[found]
        if primary in _UNAVAILABLE:
            raise Unavailable(f"The SQLite source {path} {_UNAVAILABLE[primary]}.", cause=error) from error
        raise SchemaMismatch(
            f"The SQLite source {path} refused a statement of raypipe.",
            remedy=f"SQLite says: {error}.",
            cause=error,
        ) from error
