"""Turns what the Delta library and the file system raise into the errors of a sink, in one sentence each."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, SchemaMismatchError

from raypipe.errors import Conflict, InvariantBroken, RaypipeError, SchemaMismatch, Unavailable

# The library passes the operating system's number on as text.
_OS_ERROR = re.compile(r"os error (\d+)|\[Errno (\d+)\]|errno: (\d+)|Os \{ code: (\d+)")
_REMEDIES = {
    errno.ENOSPC: "Free space there.",
    errno.EDQUOT: "Free space there.",
    errno.EROFS: "Make it writable for this user.",
    errno.EACCES: "Make it writable for this user.",
    errno.EPERM: "Make it writable for this user.",
}


@contextmanager
def says_why(sink: str, path: Path) -> Iterator[None]:
    """Lets only errors of raypipe out.

    Raises:
        Conflict: somebody else's commit was first; ours was rejected.
        Unavailable: the table cannot be read or written now.
        SchemaMismatch: the table uses features that the library does not know.
        InvariantBroken: the library refused what it was given.
    """
    try:
        yield
    except RaypipeError:
        raise
    except (OSError, DeltaError, duckdb.Error, pa.ArrowException, ValueError, TypeError) as error:
        raise _failure(error, sink, path) from error


def _failure(error: Exception, sink: str, path: Path) -> RaypipeError:
    if isinstance(error, CommitFailedError) or "already exists" in str(error):
        return Conflict(f"Somebody else's commit to {path} came before that of sink {sink}.", cause=error, sink=sink)
    number = _number(error)
    if number is not None:
        return Unavailable(
            f"Sink {sink} cannot use {path}: {os.strerror(number)}.",
            remedy=_REMEDIES.get(number, ""),
            cause=error,
            sink=sink,
        )
    if isinstance(error, DeltaProtocolError):
        return SchemaMismatch(
            f"The Delta table {path} uses features that the installed Delta library does not support.",
            remedy="Remove the features from the table, or the table itself, and run again.",
            cause=error,
            sink=sink,
        )
    if isinstance(error, (SchemaMismatchError, duckdb.Error, pa.ArrowException, ValueError, TypeError)):
        # Its text may hold values, so only its type is told.
        return InvariantBroken(f"The rows of sink {sink} were refused for {path} ({type(error).__name__}).", sink=sink)
    return Unavailable(f"Sink {sink} cannot read or write {path}.", cause=error, sink=sink)


def _number(error: Exception) -> int | None:
    """The operating system's number for an error, if that is what it comes from."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(next(filter(None, found.groups()))) if found else None
