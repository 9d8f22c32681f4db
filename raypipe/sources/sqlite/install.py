"""Puts the capture into a source, follows its tables as they are altered, and takes every trace of it out."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raypipe.errors import SourceGap
from raypipe.model import RESERVED_PREFIX
from raypipe.sources.sqlite.connect import answers, connect, quoted, writing
from raypipe.sources.sqlite.schema import Shape, read_shape, require_tables
from raypipe.sources.sqlite.triggers import (
    CLOCK,
    absent_table,
    capture_sql,
    change_table,
    stash_table,
    trigger_events,
    trigger_name,
)

CAPTURES = "_raypipe_captures"
MARKS = "_raypipe_marks"

# Of the tables and triggers below; another version of raypipe may have installed others.
FORMAT = 1

# A new column that holds only NULLs needs no reload. Finding that out looks at the rows changed since the schema was
# last seen whole, under the write lock, at about a million a second; beyond this many the table is loaded again.
MAX_ROWS_CHECKED = 50_000


@dataclass(frozen=True, kw_only=True)
class Capture:
    """One table under one shape, from one moment to another.

    Attributes:
        number: Names the change table and the triggers.
        shape: Of the captured table.
        version: Of the table's schema.
        since: Change number at which the capture began; changes of the table that follow are in its change table.
        until: Change number at which it ended; None while it lasts.
        reload: The table must be loaded again from ``since`` on.
    """

    number: int
    shape: Shape
    version: int
    since: int
    until: int | None
    reload: bool

    @property
    def table(self) -> str:
        """Name of the captured table."""
        return self.shape.table


def install(path: str | Path, tables: Sequence[str]) -> None:
    """Begins to capture tables; those captured already stay so, altered ones are followed.

    Raises:
        SchemaMismatch: a table does not exist or cannot be captured.
        Unavailable: the file is locked, read-only or away.
    """
    file = Path(path)
    connection = connect(file)
    try:
        with answers(file):
            require_tables(connection, file.name, tables)
            follow(connection, tables, seen_whole=None)
    finally:
        connection.close()


def remove(path: str | Path) -> None:
    """Takes every table, index and trigger of raypipe out of a source; idempotent.

    Raises:
        Unavailable: the file is locked, read-only or away.
    """
    file = Path(path)
    connection = connect(file)
    try:
        with answers(file), writing(connection):
            for kind in ("trigger", "table"):  # in this order, so that no trigger outlives the table it needs
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = ? AND substr(name, 1, ?) = ?",
                    (kind, len(RESERVED_PREFIX), RESERVED_PREFIX),
                ).fetchall():
                    connection.execute(f"DROP {kind} {quoted(name)}")
    finally:
        connection.close()


def installed(connection: sqlite3.Connection) -> bool:
    """Whether the source has a capture.

    Raises:
        SourceGap: of another format.
    """
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (CLOCK,)).fetchone() is None:
        return False
    (version,) = connection.execute(f"SELECT format FROM {CLOCK}").fetchone()
    if version != FORMAT:
        raise SourceGap(
            f"The capture in the source has format {version}; this raypipe knows {FORMAT}.",
            remedy="Run 'raypipe source remove', remove the log and what the sinks hold, and run again.",
        )
    return True


def schema_cookie(connection: sqlite3.Connection) -> int:
    """A number that changes with every change of the schema, and with VACUUM."""
    return int(connection.execute("PRAGMA main.schema_version").fetchone()[0])


def read_captures(connection: sqlite3.Connection, tables: Sequence[str]) -> tuple[Capture, ...]:
    """Captures of some tables, also ended ones that still hold changes, in the order in which they began."""
    rows = connection.execute(
        f"SELECT number, shape, version, since, until, reload FROM {CAPTURES} WHERE NOT drained ORDER BY number"
    )
    captures = (
        Capture(
            number=number, shape=Shape.from_json(shape), version=version, since=since, until=until, reload=bool(reload)
        )
        for number, shape, version, since, until, reload in rows
    )
    return tuple(capture for capture in captures if capture.table in tables)


def follow(connection: sqlite3.Connection, tables: Sequence[str], *, seen_whole: int | None) -> None:
    """Brings the capture in line with the tables as they are now; changes nothing if it is.

    Takes the write lock only if something differs. Whatever it does lies at a change number of its own, so that a
    position tells on which side of it a reader stands.

    Args:
        connection: To the source, outside any transaction.
        tables: To capture. One that is missing is taken as dropped.
        seen_whole: Change number up to which the caller has seen the captured schema unaltered; None if it has not,
            then what is acknowledged counts.

    Raises:
        SchemaMismatch: a table can no longer be captured.
    """
    if installed(connection) and not _differing(connection, tables):
        return
    with writing(connection):
        if not installed(connection):
            _create_base(connection)
        differing = _differing(connection, tables)
        if not differing:
            return  # somebody else was faster
        (acknowledged,) = connection.execute(f"SELECT acknowledged FROM {CLOCK}").fetchone()
        event = _take_number(connection)
        whole = acknowledged if seen_whole is None else seen_whole
        for (number,) in connection.execute(f"SELECT number FROM {CAPTURES} WHERE drained").fetchall():
            connection.execute(f"DROP TABLE IF EXISTS {change_table(number)}")
        for capture, shape in differing:
            if capture is None or shape is None:
                reload = True
            else:
                reload = not _has_recorded_all(connection, capture, shape, whole)
            if capture is not None:
                _end(connection, capture, event)
            if shape is not None:
                _begin(connection, capture, shape, event, reload)


def separate(connection: sqlite3.Connection) -> None:
    """Takes a change number that stands for no change, so that a load that begins now lies behind all that was read."""
    with writing(connection):
        _take_number(connection)


def _take_number(connection: sqlite3.Connection) -> int:
    connection.execute(f"UPDATE {CLOCK} SET seq = seq + 1")
    connection.execute(f"INSERT INTO {MARKS}(seq, at) SELECT seq, julianday('now') FROM {CLOCK}")
    return int(connection.execute(f"SELECT seq FROM {CLOCK}").fetchone()[0])


def _create_base(connection: sqlite3.Connection) -> None:
    connection.execute(
        f"CREATE TABLE {CLOCK}(one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, identity TEXT NOT NULL,"
        " format INTEGER NOT NULL, acknowledged INTEGER NOT NULL, pruned INTEGER NOT NULL)"
    )
    connection.execute(f"INSERT INTO {CLOCK} VALUES (1, 0, ?, ?, 0, 0)", (str(uuid.uuid4()), FORMAT))
    connection.execute(
        f"CREATE TABLE {CAPTURES}(number INTEGER PRIMARY KEY, name TEXT NOT NULL, shape TEXT NOT NULL,"
        " version INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER, reload INTEGER NOT NULL,"
        " drained INTEGER NOT NULL)"
    )
    connection.execute(f"CREATE TABLE {MARKS}(seq INTEGER PRIMARY KEY, at REAL NOT NULL)")


def _differing(connection: sqlite3.Connection, tables: Sequence[str]) -> list[tuple[Capture | None, Shape | None]]:
    """Captures that are not what they should be, each with the shape of the one that must follow it."""
    current = {capture.table: capture for capture in read_captures(connection, tables) if capture.until is None}
    pairs = [(current.get(table), read_shape(connection, table)) for table in tables]
    return [
        (capture, shape)
        for capture, shape in pairs
        if (shape is not None if capture is None else shape != capture.shape or not _has_triggers(connection, capture))
    ]


def _has_triggers(connection: sqlite3.Connection, capture: Capture) -> bool:
    names = [trigger_name(capture.number, event) for event in trigger_events(capture.shape)]
    (present,) = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
        f" AND name IN ({', '.join('?' * len(names))})",
        (capture.table, *names),
    ).fetchone()
    return bool(present == len(names))


def _end(connection: sqlite3.Connection, capture: Capture, event: int) -> None:
    """Stops recording; the change table stays until its changes are acknowledged."""
    for name in [trigger_name(capture.number, event) for event in (*trigger_events(capture.shape), "replaced")]:
        connection.execute(f"DROP TRIGGER IF EXISTS {name}")  # they may sit on a table renamed since
    connection.execute(f"DROP TABLE IF EXISTS {stash_table(capture.number)}")
    connection.execute(f"DROP TABLE IF EXISTS {absent_table(capture.number)}")
    connection.execute(f"UPDATE {CAPTURES} SET until = ? WHERE number = ?", (event, capture.number))


def _begin(connection: sqlite3.Connection, old: Capture | None, shape: Shape, event: int, reload: bool) -> None:
    (last,) = connection.execute(f"SELECT max(version) FROM {CAPTURES} WHERE name = ?", (shape.table,)).fetchone()
    same_schema = old is not None and (old.shape.columns, old.shape.key) == (shape.columns, shape.key)
    (number,) = connection.execute(f"SELECT coalesce(max(number), 0) + 1 FROM {CAPTURES}").fetchone()
    connection.execute(
        f"INSERT INTO {CAPTURES} VALUES (?, ?, ?, ?, ?, NULL, ?, 0)",
        (number, shape.table, shape.to_json(), (last or 0) + (not same_schema), event, reload),
    )
    for statement in capture_sql(number, shape):
        connection.execute(statement)


def _has_recorded_all(connection: sqlite3.Connection, old: Capture, shape: Shape, seen_whole: int) -> bool:
    """Whether the old triggers, while they ran on under the new shape, have recorded all of it. In doubt they have not.

    They have if the only news are columns that hold nothing but NULL, or keys and triggers of the application under
    which nothing was written.
    """
    before, added = old.shape, shape.fields[len(old.shape.fields) :]
    if (
        not _has_triggers(connection, old)
        or replace(shape, fields=before.fields, uniques=before.uniques, rewritten=before.rewritten) != before
        or shape.fields[: len(before.fields)] != before.fields
        or any(field.generated or _has_default(connection, shape.table, field.name) for field in added)
    ):
        return False
    changes, first = change_table(old.number), seen_whole * 2 + 2
    (written,) = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {changes} WHERE id >= ? LIMIT ?)", (first, MAX_ROWS_CHECKED + 1)
    ).fetchone()
    if not written:
        return True
    unnoticed = set(shape.uniques) - set(before.uniques) or (shape.rewritten and not before.rewritten)
    if unnoticed or not shape.rowid or written > MAX_ROWS_CHECKED:
        return False
    filled = " OR ".join(f"t.{quoted(field.name)} IS NOT NULL" for field in added)
    found = connection.execute(
        f"SELECT 1 FROM {changes} AS c JOIN {quoted(shape.table)} AS t ON t.{quoted(shape.rowid)} = c.rid"
        f" WHERE c.id >= ? AND ({filled or '0'}) LIMIT 1",
        (first,),
    ).fetchone()
    return found is None


def _has_default(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(
        name == column and default is not None and default.upper() != "NULL"
        for _, name, _, _, default, *_ in connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})")
    )
