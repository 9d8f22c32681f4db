"""Reads batches back: slices of an epoch, checked against gaps and damage."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from raypipe.codec import checksum, decode
from raypipe.contracts import LogBatch, LogSlice
from raypipe.errors import Corrupt, SourceGap
from raypipe.log.sqlite.cuts import last_place
from raypipe.log.sqlite.failures import damaged
from raypipe.log.sqlite.file import LogFile
from raypipe.model import Cut

# One read transaction fetches about this much: memory is bounded, no reader holds up the WAL for long, and the memory
# is used again while it is still in the processor's cache.
_FETCH_BYTES = 2 << 20
_FETCH_BATCHES = 1024


def slices(file: LogFile, after: Cut | None, upto: Cut, topics: Collection[str], max_bytes: int) -> list[LogSlice]:
    """Consecutive slices of what lies between two cuts; ``begin`` (exclusive) and ``end`` are places.

    ``after=None`` begins with the oldest batch still kept: who holds no cut ignores every change before a load.

    Raises:
        SourceGap: a cut, or what follows it, is no longer there.
    """
    chosen = tuple(sorted(set(topics)))
    with file.snapshot():
        begin = _forgotten(file) if after is None else last_place(file, after)
        end = last_place(file, upto)
        _require_kept(file, begin)
        groups = file.all(
            f"""
            SELECT max(place), sum(bytes) FROM (
                SELECT place, bytes, (sum(bytes) OVER (ORDER BY place) - bytes) / ? AS part FROM batches
                WHERE place > ? AND place <= ? AND topic IN ({_ids(file, chosen)})
            ) GROUP BY part ORDER BY part
            """,
            (max(1, max_bytes), begin, end),
        )
    parts = []
    for place, size in groups:
        parts.append(LogSlice(begin=str(begin), end=str(place), topics=chosen, bytes=size))
        begin = place
    return parts


def read(file: LogFile, part: LogSlice) -> Iterator[LogBatch]:
    """Batches of a slice in the order of places, which is the order of appends within an instance.

    Raises:
        Corrupt: a batch is missing or not what was written.
        SourceGap: part of the slice was forgotten.
    """
    begin, last = int(part.begin), int(part.end)
    while begin < last:
        with file.snapshot():
            _require_kept(file, begin)
            end = _fetch_end(file, begin, last)
            rows = file.all(
                f"""
                SELECT name, offset, checksum, payload FROM batches
                JOIN topics ON topics.id = topic LEFT JOIN payloads USING (number)
                WHERE place > ? AND place <= ? AND topic IN ({_ids(file, part.topics)}) ORDER BY place
                """,
                (begin, end),
            )
        for topic, offset, crc, payload in rows:
            yield _batch(file, topic, offset, crc, payload)
        begin = end


def load_begins(file: LogFile, topic: str) -> int | None:
    """Offset of the newest batch kept in a topic that holds a TRUNCATE."""
    (offset,) = file.one(
        "SELECT max(offset) FROM (SELECT offset FROM batches JOIN topics ON topics.id = topic"
        " WHERE name = ? AND begins_load UNION ALL SELECT offset FROM pending JOIN topics ON topics.id = topic"
        " WHERE name = ? AND begins_load)",
        (topic, topic),
    )
    return None if offset is None else int(offset)


def _fetch_end(file: LogFile, begin: int, end: int) -> int:
    """Where the next fetch ends; makes sure on the way that no batch is missing up to there."""
    count, last = file.one(
        "SELECT count(*), max(place) FROM (SELECT place, sum(bytes) OVER (ORDER BY place) - bytes AS before"
        " FROM batches WHERE place > ? AND place <= ? LIMIT ?) WHERE before < ?",
        (begin, end, _FETCH_BATCHES, _FETCH_BYTES),
    )
    if last is None or last != begin + count:
        raise damaged(file.path, f"batches between places {begin} and {end} are missing")
    return int(last)


def _batch(file: LogFile, topic: str, offset: int, crc: int, payload: bytes | None) -> LogBatch:
    if payload is None or checksum(payload, f"{topic}/{offset}") != crc:
        raise damaged(file.path, f"batch {offset} of topic {topic} is not what was written")
    try:
        return LogBatch(topic=topic, offset=offset, batch=decode(payload))
    except Corrupt as error:
        raise damaged(file.path, f"batch {offset} of topic {topic} cannot be decoded", cause=error) from error


def _forgotten(file: LogFile) -> int:
    return int(file.one("SELECT forgotten_place FROM state")[0])


def _require_kept(file: LogFile, begin: int) -> None:
    if begin < _forgotten(file):
        raise SourceGap(
            f"Log {file.path} no longer holds what follows place {begin}: it was forgotten as committed by every sink.",
            remedy="A sink that still needs it was restored from an older copy: reload its tables.",
            log=str(file.path),
        )


def _ids(file: LogFile, topics: Collection[str]) -> str:
    """Ids of the topics that exist, as a list for IN; integers of our own, so safe to write into SQL."""
    wanted = set(topics)
    return ",".join(str(number) for number, name in file.all("SELECT id, name FROM topics") if name in wanted)
