"""Reads recorded changes: a range of change numbers, from every table that was captured then."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from raypipe.errors import SourceGap
from raypipe.sources.sqlite.decode import LEADING
from raypipe.sources.sqlite.install import CAPTURES, MARKS, Capture, installed
from raypipe.sources.sqlite.snapshot import loaded_changes
from raypipe.sources.sqlite.spool import Spool
from raypipe.sources.sqlite.triggers import CLOCK, change_table


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How far a source has come, as one read transaction sees it: a transaction boundary.

    Attributes:
        identity: Of the capture.
        seq: Number of the last change.
        pruned: Changes up to here may be gone.
    """

    identity: str
    seq: int
    pruned: int


def read_clock(connection: sqlite3.Connection, instance: str) -> Clock:
    """Reads the source's counter.

    Raises:
        SourceGap: the source has no capture (any more).
    """
    if not installed(connection):
        raise SourceGap(
            f"Source {instance!r} has no capture: it was removed, or the file is another database.",
            remedy="Put the right file back, or begin anew: remove the log and what the sinks hold, and run again.",
        )
    identity, seq, pruned = connection.execute(f"SELECT identity, seq, pruned FROM {CLOCK}").fetchone()
    return Clock(identity=identity, seq=seq, pruned=pruned)


def read_mark(connection: sqlite3.Connection, seq: int) -> int | None:
    """When a change was made, in milliseconds since 1970; 0 before the first one, None if it is not there."""
    if seq == 0:
        return 0
    tables = [MARKS] + [
        change_table(number)
        for (number,) in connection.execute(f"SELECT number FROM {CAPTURES} WHERE NOT drained ORDER BY number DESC")
    ]
    for table in tables:
        where = "seq = ?1" if table == MARKS else "id IN (?1 * 2, ?1 * 2 + 1)"
        found = connection.execute(
            f"SELECT CAST(round((at - 2440587.5) * 86400000.0) AS INTEGER) FROM {table} WHERE {where} LIMIT 1", (seq,)
        ).fetchone()
        if found is not None:
            return int(found[0])
    return None


def next_event(captures: Iterable[Capture], after: int, upto: int) -> int | None:
    """First change number in a range at which a table was altered, captured or dropped."""
    events = [event for capture in captures for event in (capture.since, capture.until) if event is not None]
    return min((event for event in events if after < event <= upto), default=None)


def tables_to_load(captures: Collection[Capture], event: int) -> set[str]:
    """Tables that an event leaves with other rows than the changes tell: they are emptied, and loaded if they exist."""
    begun = {capture.table: capture.reload for capture in captures if capture.since == event}
    ended = {capture.table for capture in captures if capture.until == event}
    return {table for table in begun.keys() | ended if begun.get(table, True)}


def fill_changes(
    spool: Spool, captures: Iterable[Capture], after: int, upto: int, loading: Mapping[str, tuple[str, ...]]
) -> dict[int, int]:
    """Spools the changes of a range of numbers; of a loading table only those within its loaded part.

    Returns:
        Rows spooled, by number of the capture.
    """
    filled = {}
    for capture in captures:
        if capture.since >= upto or (capture.until is not None and capture.until <= after):
            continue
        condition = ""
        if capture.table in loading:
            condition = loaded_changes(capture.shape, loading[capture.table])
            if not condition:
                continue  # nothing is loaded yet
        images = ", ".join(f"c{place}" for place in range(len(capture.shape.fields)))
        filled[capture.number] = spool.fill(
            capture.number,
            LEADING + len(capture.shape.fields),
            f"SELECT op, seq, at, rid, {images} FROM {change_table(capture.number)}"
            f" WHERE id BETWEEN ? AND ? {condition} ORDER BY id",
            (after * 2 + 2, upto * 2 + 1),
        )
    return filled
