"""Cuts: published by writers, found by readers."""

from __future__ import annotations

import time

from raypipe.codec import checksum
from raypipe.errors import SourceGap
from raypipe.log.sqlite.failures import damaged
from raypipe.log.sqlite.file import LogFile
from raypipe.log.sqlite.progress import read_all_progress
from raypipe.model import Cut


def publish(file: LogFile, instance: str) -> Cut:
    """Publishes a cut at the present place of the instance, which is a transaction boundary.

    What the instance appended since its last boundary gets its place in the order of cuts; what others have appended
    beyond theirs stays pending, and is in no cut before its transaction is whole.
    """
    (rows, size) = file.one(
        "SELECT coalesce(sum(rows), 0), coalesce(sum(bytes), 0) FROM pending"
        " WHERE topic IN (SELECT id FROM topics WHERE instance = ?)",
        (instance,),
    )
    file.run(
        "INSERT INTO batches (place, number, topic, offset, rows, bytes, checksum, begins_load)"
        " SELECT (SELECT last_place FROM state) + row_number() OVER (ORDER BY number),"
        " number, topic, offset, rows, bytes, checksum, begins_load"
        " FROM pending WHERE topic IN (SELECT id FROM topics WHERE instance = ?) ORDER BY number",
        (instance,),
    )
    moved = file.run(
        "DELETE FROM pending WHERE topic IN (SELECT id FROM topics WHERE instance = ?)", (instance,)
    ).rowcount
    file.run("UPDATE topics SET cut_offset = next_offset WHERE instance = ? AND cut_offset <> next_offset", (instance,))
    number, last_place, all_rows, all_bytes = file.one(
        "UPDATE state SET last_cut = last_cut + 1, last_place = last_place + ?, rows = rows + ?, bytes = bytes + ?"
        " RETURNING last_cut, last_place, rows, bytes",
        (moved, rows, size),
    )
    writers = read_all_progress(file)
    cut = Cut(
        number=number,
        log=file.identity,
        offsets=dict(file.all("SELECT name, cut_offset FROM topics WHERE cut_offset > 0 ORDER BY name")),
        positions={name: at.cut_position for name, at in writers.items() if at.cut_position is not None},
        loading=tuple(sorted({table for at in writers.values() for table in at.cut_loading})),
        rows=all_rows,
        bytes=all_bytes,
        at=time.time(),
    )
    body = cut.to_json()
    file.run(
        "INSERT INTO cuts (number, last_place, body, checksum) VALUES (?, ?, ?, ?)",
        (number, last_place, body, checksum(body.encode(), str(number))),
    )
    return cut


def cuts(file: LogFile, after: int, limit: int) -> list[Cut]:
    """Cuts with a number above ``after``, oldest first."""
    rows = file.all("SELECT number, body, checksum FROM cuts WHERE number > ? ORDER BY number LIMIT ?", (after, limit))
    return [_cut(file, *row) for row in rows]


def cut(file: LogFile, number: int) -> Cut | None:
    """The cut of that number, None if it is unknown."""
    row = file.first("SELECT number, body, checksum FROM cuts WHERE number = ?", (number,))
    return None if row is None else _cut(file, *row)


def last_cut(file: LogFile) -> Cut | None:
    """The newest cut."""
    row = file.first("SELECT number, body, checksum FROM cuts ORDER BY number DESC LIMIT 1")
    return None if row is None else _cut(file, *row)


def last_place(file: LogFile, held: Cut) -> int:
    """Place of the last batch that a cut covers.

    Raises:
        SourceGap: the cut is not one of this log as it is now.
    """
    row = file.first("SELECT last_place FROM cuts WHERE number = ?", (held.number,))
    if held.log != file.identity or row is None or cut(file, held.number) != held:
        raise SourceGap(
            f"Log {file.path} does not know cut {held.number}: it was forgotten, or made by another log or by another"
            " copy of this one.",
            remedy="Restore the log that goes with the sinks, or reload the tables of the sinks that hold this cut.",
            cut=held.number,
            log=str(file.path),
        )
    return int(row[0])


def _cut(file: LogFile, number: int, body: str, crc: int) -> Cut:
    if checksum(body.encode(), str(number)) != crc:
        raise damaged(file.path, f"cut {number} is not what was written")
    return Cut.from_json(body)
