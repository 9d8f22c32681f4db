"""Finds the log that a URL of the pipeline file names."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from raypipe.codec import Compression
from raypipe.contracts import Log
from raypipe.errors import Kind, MissingExtra, RaypipeError
from raypipe.log.sqlite import SqliteLog
from raypipe.model import TableName

if TYPE_CHECKING:
    from raypipe.log.kafka import KafkaLog

_SQLITE = "sqlite:///"


class Scheme(Enum):
    """First part of a log's URL, without what follows a plus sign."""

    SQLITE = "sqlite"
    KAFKA = "kafka"


def open_log(url: str, *, pipeline: str, compression: Compression | None = None) -> Log:
    """The log of a URL, made if there is none yet.

    Args:
        url: ``sqlite:///PATH`` or ``kafka://HOST:PORT``; a path is relative to the working directory unless it is
            absolute (four slashes), so the caller resolves what a pipeline file says against the file's own folder.
        pipeline: Whose log it is; the prefix of its topics where logs of several pipelines share a store.
        compression: Of the batches this object appends, instead of the log's own choice; a log may hold batches of
            several kinds.

    Raises:
        RaypipeError: the URL names no kind of log that raypipe has.
        MissingExtra: the library for that kind is not installed.
        Unavailable: locked, read-only, away, or part of the log is missing.
        Corrupt: damaged, or not a log.
    """
    if _scheme(url) is Scheme.KAFKA:
        return _kafka().create(url, pipeline, compression)
    return SqliteLog.create(_path(url), compression or Compression.LZ4)


def open_existing_log(url: str, *, pipeline: str, compression: Compression | None = None) -> Log:
    """The log of a URL, for those who only look: none is made.

    Raises:
        RaypipeError: the URL names no kind of log that raypipe has.
        MissingExtra: the library for that kind is not installed.
        Unavailable: there is no log, or it does not answer.
        Corrupt: damaged, or not a log.
    """
    if _scheme(url) is Scheme.KAFKA:
        return _kafka().open(url, pipeline, compression)
    return SqliteLog.open(_path(url), compression or Compression.LZ4)


def log_exists(url: str, *, pipeline: str) -> bool:
    """Whether there is a log at a URL; nothing is made.

    Raises:
        RaypipeError: the URL names no kind of log that raypipe has.
        Unavailable: the store that would hold it does not answer.
    """
    if _scheme(url) is Scheme.KAFKA:
        return _kafka().exists(url, pipeline)
    return _path(url).exists()


def require_log(url: str, *, pipeline: str, tables: Collection[TableName]) -> None:
    """Makes sure, within seconds and without changing anything, that a log could be used or made.

    A file is not looked at: whoever opens it finds out as quickly.

    Args:
        url: As for ``open_log``.
        pipeline: Whose log it would be.
        tables: That it would hold.

    Raises:
        RaypipeError: the URL is wrong, or names tables that are not the pipeline's.
        MissingExtra: the library for that kind is not installed.
        Unavailable: the store does not answer, or would refuse.
    """
    if _scheme(url) is Scheme.KAFKA:
        _kafka().require(url, pipeline, tables)


def _scheme(url: str) -> Scheme:
    scheme = url.partition(":")[0]
    known = [each.value for each in Scheme]
    if scheme.partition("+")[0] not in known:
        # The URL itself may hold a password, so only its scheme is shown.
        raise RaypipeError(
            f"The log's URL begins with {scheme!r}, and raypipe has no such log.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write sqlite:///PATH, for instance log: sqlite:///var/log.db, or kafka://HOST:PORT.",
        )
    return Scheme(scheme.partition("+")[0])


def _path(url: str) -> Path:
    path = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not path:
        raise RaypipeError(
            "A SQLite log's URL has three slashes and a path.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write sqlite:///PATH, for instance log: sqlite:///var/log.db",
        )
    return Path(path)


def _kafka() -> type[KafkaLog]:
    try:
        from raypipe.log.kafka import KafkaLog
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise MissingExtra.of("kafka", "A log in Kafka") from error
    return KafkaLog
