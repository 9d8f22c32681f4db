"""Leaves out what a restarted Debezium tells again.

Debezium is at-least-once: a connector that was killed goes back to the position that it wrote last and sends everything
from there on again, the same messages in the same order. Each message from PostgreSQL says where it stands in the
database's stream: by the end of the transaction before its own, and by its own LSN, in that order (an LSN alone is no
order: transactions that run side by side lie mixed in the database's log). What stands no further than the furthest
that was read is a repeat, if three things hold:

* What it repeats was read. A topic that compaction thinned out may hold the repeat alone. So only what was read without
  a hole in the offsets counts, from the first message behind the last hole on (``floor``).
* It is not newer by the database's clock than all that was read: a database that was restored elsewhere begins again
  with lower LSNs and is no repetition.
* Several rows may have one LSN (COPY writes many rows at once), so of those at the furthest place as many are left out
  as were read.

A snapshot begins anew: nothing from before it is repeated behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.sources.debezium.parse import Phase

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
_TOMBSTONE = 0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was read of a partition without a hole.

    Attributes:
        next: Offset behind it.
        floor: Place (end of the transaction before, LSN) of its first message.
        top: The furthest place.
        last: Place of its last message, and its ordinal, -1 if it has none.
        times: Messages at ``top``, or the ordinal of the last one if they have ordinals.
        now: Messages at ``top`` since the connector last went back.
        high: The highest LSN.
        newest_us: The latest time of a commit.
        dropped: The last message was left out; its tombstone is too.
    """

    next: int
    floor: tuple[int, int]
    top: tuple[int, int]
    last: tuple[int, int, int]
    times: int
    now: int
    high: int
    newest_us: int
    dropped: bool = False

    def parts(self) -> list[int]:
        """For JSON; ``of_parts`` reads them back."""
        counts = (self.times, self.now, self.high, self.newest_us, int(self.dropped))
        return [self.next, *self.floor, *self.top, *self.last, *counts]

    @classmethod
    def of_parts(cls, parts: Sequence[int]) -> Seen:
        """Reads what ``parts`` gave."""
        next_, f0, f1, t0, t1, l0, l1, l2, times, now, high, newest_us, dropped = map(int, parts)
        return cls(
            next=next_,
            floor=(f0, f1),
            top=(t0, t1),
            last=(l0, l1, l2),
            times=times,
            now=now,
            high=high,
            newest_us=newest_us,
            dropped=bool(dropped),
        )


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Messages of the database's stream, in order."""

    behind: Numbers
    lsn: Numbers
    ordinal: Numbers
    time_us: Numbers

    def __len__(self) -> int:
        return len(self.lsn)

    def at(self, index: int) -> tuple[int, int]:
        return int(self.behind[index]), int(self.lsn[index])

    def between(self, begin: int, end: int) -> _Places:
        part = slice(begin, end)
        return _Places(
            behind=self.behind[part], lsn=self.lsn[part], ordinal=self.ordinal[part], time_us=self.time_us[part]
        )

    def returns(self, last: tuple[int, int, int]) -> bool:
        """Whether the first is told behind ``last`` for the second time."""
        place, ordinal = self.at(0), int(self.ordinal[0])
        return place < last[:2] or (place == last[:2] and 0 <= ordinal <= last[2])

    def before(self, place: tuple[int, int]) -> Flags:
        """Which stand before a place."""
        found: Flags = (self.behind < place[0]) | ((self.behind == place[0]) & (self.lsn < place[1]))
        return found

    def equal(self, place: tuple[int, int]) -> Flags:
        """Which stand at it."""
        found: Flags = (self.behind == place[0]) & (self.lsn == place[1])
        return found


def sift(seen: Seen | None, rows: pa.Table) -> tuple[Flags, Seen | None]:
    """Which messages of a chunk are told for the first time, and what was seen after them.

    Splitting a chunk in two changes nothing.

    Args:
        seen: Before them; None if there is nothing that can be repeated.
        rows: As ``parse`` describes it.
    """
    offsets = rows.column("offset").to_numpy()
    phases, ops = rows.column("phase").to_numpy(), rows.column("op").to_numpy()
    kept = np.ones(len(offsets), dtype=bool)
    if not len(offsets):
        return kept, seen
    stream = np.flatnonzero((phases == Phase.STREAM) & (ops != _TOMBSTONE))
    broken = np.diff(offsets, prepend=offsets[0] if seen is None else seen.next - 1) != 1
    if seen is None:
        broken[0] = True
    broken |= (phases == Phase.SNAPSHOT) | (phases == Phase.LAST)
    if broken[0] or (seen is not None and not len(stream) and broken.any()):
        seen = None
    if len(stream):
        # A hole or a snapshot counts for the next message of the stream that follows it.
        holes = np.cumsum(broken)[stream]
        anew = np.diff(holes, prepend=0 if seen is not None else holes[0]) > 0
        found, seen = _sifted(seen, _places(rows, stream), anew)
        kept[stream] = found
        if broken[stream[-1] + 1 :].any():
            seen = None
    if seen is not None:
        seen = replace(seen, next=int(offsets[-1]) + 1)
    return _with_tombstones(seen, rows, ops, kept)


def _places(rows: pa.Table, stream: Numbers) -> _Places:
    def numbers(name: str, null: int) -> Numbers:
        column = rows.column(name).combine_chunks().fill_null(null).to_numpy(zero_copy_only=False)
        return np.asarray(column, np.int64)[stream]

    return _Places(
        behind=numbers("behind", -1), lsn=numbers("lsn", 0), ordinal=numbers("ordinal", -1), time_us=numbers("time", 0)
    )


def _with_tombstones(
    seen: Seen | None, rows: pa.Table, ops: npt.NDArray[np.int32], kept: Flags
) -> tuple[Flags, Seen | None]:
    """A tombstone goes with the delete before it that has its key."""
    dropped_before = seen is not None and seen.dropped
    tombstones = np.flatnonzero(ops == _TOMBSTONE)
    if len(tombstones) and (dropped_before or not kept.all()):
        behind = tombstones[tombstones > 0]
        keys = rows.column("key").combine_chunks()
        same = pc.equal(keys.take(pa.array(behind)), keys.take(pa.array(behind - 1))).fill_null(True)
        kept[behind] = kept[behind - 1] | ~same.to_numpy(zero_copy_only=False)
        if tombstones[0] == 0:
            kept[0] = not dropped_before
    return kept, None if seen is None else replace(seen, dropped=not bool(kept[-1]))


def _sifted(seen: Seen | None, places: _Places, anew: Flags) -> tuple[Flags, Seen]:
    """As ``sift``, of messages of the stream; ``anew`` where what was seen before counts no more."""
    kept = np.ones(len(places), dtype=bool)
    same = (np.diff(places.behind) == 0) & (np.diff(places.lsn) == 0)
    back = (np.diff(places.behind) < 0) | ((np.diff(places.behind) == 0) & (np.diff(places.lsn) < 0))
    # With Debezium's transaction metadata even a row that comes again right behind itself shows.
    back |= same & (places.ordinal[1:] >= 0) & (places.ordinal[1:] <= places.ordinal[:-1])
    starts = [0, *(np.flatnonzero(back | anew[1:]) + 1).tolist()]
    for begin, end in zip(starts, [*starts[1:], len(places)], strict=True):
        if anew[begin]:
            seen = None
        at = begin
        while at < end:
            found, upto, seen = _passed(seen, places.between(at, end))
            kept[at : at + upto] = found
            at += upto
    assert seen is not None
    return kept, seen


def _passed(seen: Seen | None, part: _Places) -> tuple[Flags, int, Seen]:
    """Of messages whose places only grow: which are new, how many were looked at, and what was seen then."""
    if seen is None:
        return np.ones(len(part), dtype=bool), len(part), _begun(part)
    if part.returns(seen.last):
        seen = replace(seen, now=0)
    old = part.time_us <= seen.newest_us
    first = (part.behind < 0) & (seen.top[0] >= 0)
    below = np.where(first, part.lsn <= seen.high, part.before(seen.top))
    elsewhere = np.flatnonzero((below | first) & ~(old & below))
    if len(elsewhere):
        upto = int(elsewhere[0])
        if upto == 0:  # another stream: a database restored elsewhere, or a connector that begins without a snapshot
            return _passed(None, part)
        found, _, seen = _passed(seen, part.between(0, upto))
        return found, upto, seen
    at_top = part.equal(seen.top) & ~first
    number = np.where(part.ordinal >= 0, part.ordinal, seen.now + np.cumsum(at_top))
    again = at_top & old & (number <= seen.times)
    known = below & ~np.where(first, part.lsn < seen.floor[1], part.before(seen.floor))
    kept = ~(known | again)
    return kept, len(part), _noted(seen, part, int(at_top.sum()), kept)


def _begun(part: _Places) -> Seen:
    """What was seen after messages with nothing before them."""
    top, ordinal = part.at(-1), int(part.ordinal[-1])
    count = int(part.equal(top).sum())
    return Seen(
        next=0,
        floor=part.at(0),
        top=top,
        last=(*top, ordinal),
        times=ordinal if ordinal >= 0 else count,
        now=count,
        high=int(part.lsn.max()),
        newest_us=int(part.time_us.max()),
    )


def _noted(seen: Seen, part: _Places, at_top: int, kept: Flags) -> Seen:
    """What was seen after messages that end at the furthest place among them."""
    last, ordinal = part.at(-1), int(part.ordinal[-1])
    top, times, now = seen.top, seen.times, seen.now + at_top
    if last > top:
        top, now = last, int(part.equal(last).sum())
        times = ordinal if ordinal >= 0 else now
    elif last == top:
        times = max(times, ordinal if ordinal >= 0 else now)
    return replace(
        seen,
        top=top,
        last=(*last, ordinal),
        times=times,
        now=now,
        high=max(int(part.lsn.max()), seen.high),
        newest_us=max(int(part.time_us.max()), seen.newest_us),
        dropped=not bool(kept[-1]),
    )
