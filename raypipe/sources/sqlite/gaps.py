"""Decides whether a source can still serve what follows a position, and says why if it cannot."""

from __future__ import annotations

import sqlite3

from raypipe.errors import SourceGap
from raypipe.sources.sqlite.connect import reading
from raypipe.sources.sqlite.position import Position
from raypipe.sources.sqlite.stream import Clock, read_clock, read_mark

PRUNED = "the changes that follow were pruned, as another pipeline on the same source would do"


def gap(instance: str, why: str) -> SourceGap:
    """The error for a source that cannot go on."""
    return SourceGap(
        f"Source {instance!r} cannot go on from the log's position: {why}.",
        remedy="Put the right file back, or begin anew: remove the log and what the sinks hold, and run again.",
    )


def require_unbroken(connection: sqlite3.Connection, instance: str, position: Position) -> None:
    """Checks a position against a source that is opened again; changes nothing in it.

    Raises:
        SourceGap: another database, an older copy, a copy that went its own way, or changes pruned.
    """
    with reading(connection):
        clock = read_clock(connection, instance)
        mark = read_mark(connection, position.seq)
    require_same(clock, instance, position)
    if clock.pruned > position.seq or mark is None:
        raise gap(instance, PRUNED)
    if mark != position.mark:
        raise gap(instance, "it is a copy of the database that was restored and has moved on since")


def require_same(clock: Clock, instance: str, position: Position) -> None:
    """Checks what can change under an open connection, when another file is copied over the source's.

    Raises:
        SourceGap: another database, or an older copy.
    """
    if clock.identity != position.identity:
        raise gap(instance, "the capture in it is not the one the log was read from: it is another database")
    if clock.seq < position.seq:
        raise gap(instance, "it is an older copy of the database")
