"""What SQLite's errors mean for the log, in words for the person who must act."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raypipe.disks import Hindrance, hindrance
from raypipe.errors import Corrupt, OutcomeUnknown, RaypipeError, Unavailable

_BASE = 0xFF  # an extended result code holds the primary one in its low byte

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: ("is locked by another process", "Find who holds it open (fuser PATH) and stop it."),
    sqlite3.SQLITE_LOCKED: ("is locked by another process", "Find who holds it open (fuser PATH) and stop it."),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "Free some space; nothing was lost and the run goes on."),
    sqlite3.SQLITE_READONLY: ("is read-only", "Make the file, its -wal and -shm files and its folder writable."),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Check that its folder exists and that both may be written."),
    sqlite3.SQLITE_PERM: ("may not be opened", "Check the rights of the file and its folder."),
    sqlite3.SQLITE_AUTH: ("may not be opened", "Check the rights of the file and its folder."),
    sqlite3.SQLITE_IOERR: ("failed to read or write", "Check the disk (dmesg); nothing was lost."),
    sqlite3.SQLITE_NOMEM: ("could not get memory", "Give the process more memory."),
    sqlite3.SQLITE_INTERRUPT: ("was interrupted", "Try again."),
    sqlite3.SQLITE_PROTOCOL: ("is busy with other processes", "Try again."),
}

# What SQLite says where it cannot make a file beside the log or let it grow, and what that may mean.
_VAGUE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
_VAGUE_MEANS = {Hindrance.FULL: sqlite3.SQLITE_FULL, Hindrance.READ_ONLY: sqlite3.SQLITE_READONLY}

RECOVER = (
    "Stop the pipeline, keep a copy of the file with its -wal and -shm files, restore them from a backup or remove"
    " all three and what the sinks hold, and run again: with a new log every table is loaded again."
)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection has the lock."""
    return getattr(error, "sqlite_errorcode", 0) & _BASE == sqlite3.SQLITE_BUSY


def explain(path: Path, error: sqlite3.Error) -> RaypipeError:
    """The error a user should see instead of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & _BASE in _VAGUE and (found := hindrance(path)):
        code = _VAGUE_MEANS[found]
    if code is not None and code & _BASE in _UNAVAILABLE:
        what, remedy = _UNAVAILABLE[code & _BASE]
        return Unavailable(f"Log {path} {what}.", remedy=remedy.replace("PATH", str(path)), cause=error, log=str(path))
    if code is not None and code & _BASE == sqlite3.SQLITE_NOTADB:
        return Corrupt(
            f"The file {path} is not a raypipe log, or its beginning was overwritten.",
            remedy=f"If it is another file, give `log:` another path. If it was the log: {RECOVER}",
            cause=error,
            log=str(path),
        )
    # The log's statements never change and its values are checked, so whatever else SQLite objects to (no such
    # table, a constraint, text that is not UTF-8, a malformed page) was done to the file from outside.
    return damaged(path, cause=error)


def damaged(path: Path, what: str = "", cause: BaseException | None = None) -> Corrupt:
    """The log is not what raypipe wrote."""
    detail = f": {what}" if what else ""
    return Corrupt(f"Log {path} is damaged{detail}.", remedy=RECOVER, cause=cause, log=str(path))


def unanswered(path: Path, error: sqlite3.Error) -> RaypipeError:
    """What became of a COMMIT that failed."""
    code = getattr(error, "sqlite_errorcode", 0) & _BASE
    # Both are found out before the frame that commits is in the WAL: the transaction is not there.
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
        return explain(path, error)
    return OutcomeUnknown(
        f"Log {path} failed while it committed; whether the commit is durable is unknown.",
        remedy="The reader starts again from the position that the log then says.",
        cause=error,
        log=str(path),
    )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors within the block into raypipe's."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, error) from error
