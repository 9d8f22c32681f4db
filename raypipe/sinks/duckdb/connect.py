"""Connects to a DuckDB file and says in our words what DuckDB complains about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from raypipe.errors import Conflict, Corrupt, InvariantBroken, LimitExceeded, RaypipeError, Unavailable

# An epoch keeps its new rows in memory up to this and spills the rest beside the file. Measured with 10 M changes in
# one epoch: 128MB costs a third of the speed, 512MB gains none.
MEMORY_LIMIT = "256MB"


def connect(path: str, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """Opens the file for writing, alone: DuckDB lets one process in.

    Raises:
        Unavailable: another process has it open, or it cannot be written.
        Corrupt: it is no DuckDB file.
    """
    with translated(path):
        connection = duckdb.connect(path)
        # As settings and not as configuration: with another configuration a second connection in this process fails.
        connection.execute("SET memory_limit = ?", [memory_limit])
        connection.execute("SET preserve_insertion_order = false")  # else an INSERT buffers to keep an order
        return connection


def connect_to_read(path: str) -> duckdb.DuckDBPyConnection:
    """Opens the file for reading, beside other readers.

    Raises:
        Unavailable: a process has it open for writing, or there is no such file.
    """
    with translated(path):
        return duckdb.connect(path, read_only=True)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turns DuckDB's errors into ours; their text may quote values, so only what is known to be harmless is kept."""
    try:
        yield
    except duckdb.Error as error:
        raise _translation(error, f"DuckDB file {path}") from error


def _translation(error: duckdb.Error, where: str) -> RaypipeError:
    text = str(error)
    if "Could not set lock" in text or "different configuration" in text:
        return Unavailable(
            f"{where} is open in another process or connection.",
            remedy="Close it there; raypipe itself lets go of the file whenever it has nothing to write.",
            cause=error,
        )
    if "No space left" in text or "File too large" in text:
        return Unavailable(f"{where} cannot grow: the disk is full.", remedy="Make room there.", cause=error)
    if "not a valid DuckDB" in text or "Corrupt" in text:
        return Corrupt(f"{where} is no DuckDB file, or a damaged one.", remedy="Restore it or name another.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return LimitExceeded(f"{where} needs more memory than it may use.", remedy="Raise the sink's memory_limit.")
    if isinstance(error, duckdb.TransactionException) or "onflict" in text:
        return Conflict(f"Another connection changed {where} at the same time.", cause=error)
    if isinstance(
        error, duckdb.IOException | duckdb.FatalException | duckdb.ConnectionException | duckdb.PermissionException
    ):
        reason = _why_not_writable(error)
        return Unavailable(f"{where} cannot be opened or written: {reason}.", cause=error)
    return InvariantBroken(f"{where} refused a statement of raypipe's own ({type(error).__name__}).")


def _why_not_writable(error: duckdb.Error) -> str:
    for errno in (13, 30, 2, 20, 21):  # EACCES, EROFS, ENOENT, ENOTDIR, EISDIR
        if os.strerror(errno).lower() in str(error).lower():
            return os.strerror(errno).lower()
    return "the file system refused it"
