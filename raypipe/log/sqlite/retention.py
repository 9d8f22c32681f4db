"""Forgets what every sink has committed, in steps short enough for writers not to notice."""

from __future__ import annotations

from raypipe import faults
from raypipe.log.sqlite.file import LogFile
from raypipe.model import Cut

# One step holds the write lock for about 10 ms.
_STEP_BATCHES = 256
_STEP_BYTES = 64 << 20


def retain(file: LogFile, oldest: Cut) -> int:
    """Forgets the batches that the cut covers and the cuts before it; returns the bytes set free.

    The pages become free inside the file and the next appends use them again, so the file stays as large as the most
    it ever had to keep. A cut that the log does not know forgets nothing.
    """
    if oldest.log != file.identity:
        return 0
    row = file.first("SELECT last_place FROM cuts WHERE number = ?", (oldest.number,))
    if row is None:
        return 0
    faults.point("log.retain.before")
    freed = 0
    while step := _forget_some(file, oldest.number, upto=row[0]):
        freed += step
    faults.point("log.retain.after")
    return freed


def _forget_some(file: LogFile, oldest: int, upto: int) -> int:
    """Forgets a bounded number of batches; 0 when there are none left."""
    (begin,) = file.one("SELECT forgotten_place FROM state")
    (idle,) = file.one("SELECT NOT EXISTS (SELECT 1 FROM cuts WHERE number < ?)", (oldest,))
    if begin >= upto and idle:
        return 0
    # Nobody builds on it: after a power cut the log may hold again what could be forgotten, and forgets it again.
    with file.transaction(durable=False):
        (begin,) = file.one("SELECT forgotten_place FROM state")
        end, size = file.one(
            "SELECT coalesce(max(place), ?), coalesce(sum(bytes), 0) FROM ("
            " SELECT place, bytes, sum(bytes) OVER (ORDER BY place) - bytes AS before"
            " FROM batches WHERE place > ? AND place <= ? LIMIT ?) WHERE before < ?",
            (begin, begin, upto, _STEP_BATCHES, _STEP_BYTES),
        )
        file.run("DELETE FROM payloads WHERE number IN (SELECT number FROM batches WHERE place <= ?)", (end,))
        file.run("DELETE FROM batches WHERE place <= ?", (end,))
        file.run("DELETE FROM cuts WHERE number < ?", (oldest,))
        file.run("UPDATE state SET forgotten_place = ?, kept_bytes = kept_bytes - ?", (end, size))
    return int(size)
