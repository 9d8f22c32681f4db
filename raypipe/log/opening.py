"""Finds the log that a URL of the pipeline file names."""

from __future__ import annotations

from pathlib import Path

from raypipe.codec import Compression
from raypipe.errors import Kind, RaypipeError
from raypipe.log.sqlite import SqliteLog

_SQLITE = "sqlite:///"


def open_log(url: str, *, compression: Compression = Compression.LZ4) -> SqliteLog:
    """The log of a URL, made if there is none yet.

    Args:
        url: ``sqlite:///PATH``; a path is relative to the working directory unless it is absolute (four slashes),
            so the caller resolves what a pipeline file says against the file's own folder.
        compression: Of the batches this object appends; a log may hold batches of several kinds.

    Raises:
        RaypipeError: the URL names no kind of log that raypipe has.
        Unavailable: locked, read-only, or part of the log's files is missing.
        Corrupt: damaged, or not a log.
    """
    return SqliteLog.create(_path(url), compression)


def open_existing_log(url: str, *, compression: Compression = Compression.LZ4) -> SqliteLog:
    """The log of a URL, for those who only look: none is made.

    Raises:
        RaypipeError: the URL names no kind of log that raypipe has.
        Unavailable: there is no log, or it is locked.
        Corrupt: damaged, or not a log.
    """
    return SqliteLog.open(_path(url), compression)


def _path(url: str) -> Path:
    path = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not path:
        # The URL itself may hold a password, so only its scheme is shown.
        raise RaypipeError(
            f"The log's URL begins with {url.partition(':')[0]!r}, and raypipe has no such log.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write sqlite:///PATH, for instance log: sqlite:///var/log.db",
        )
    return Path(path)
