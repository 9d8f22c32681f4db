"""Loads tables in chunks beside the stream, without a lock that anybody would notice and without writing a table.

The rule that must hold at every boundary: a loading table stands exactly for its rows up to the cursor. A chunk is read
in a transaction that saw some commits and not others, and in which order commits become *visible* is not the order in
which they stand in the write-ahead log. So nothing is inferred from the clock or from two watermarks alone: each
chunk remembers which transactions it saw (``pg_current_snapshot``). Its rows go out at once; then, until the stream
has passed a watermark written after that look (``pg_logical_emit_message``), of the chunk's keys only changes by
transactions that it did not see follow, and there is no boundary. Behind the watermark the chunk equals the stream.

One thing more is needed: nothing that the stream handed out before (and that was dropped, its keys being not loaded
yet) may be invisible to the chunk. A commit is sent as soon as it is on disk and becomes visible a moment later, so
every look waits for the transactions that were read (``Visible``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.errors import RaypipeError, Unavailable
from raypipe.sources.postgres.connect import Session, literal
from raypipe.sources.postgres.keys import BELOW, WITHIN, Numbers, places
from raypipe.sources.postgres.position import Load, Moment, lsn_of
from raypipe.sources.postgres.schema import Table

# A commit is visible microseconds after it is on disk, unless the server waits for a standby.
VISIBLE_TIMEOUT_S = 10.0
# Older transactions that still run are waited for this long in one poll; the next one goes on waiting.
SINCE_TIMEOUT_S = 2.0
_LOOK_EVERY_S = 0.002


def current_moment(session: Session) -> Moment:
    """What a transaction that begins now would see, or what the one that is open sees."""
    return Moment.parse(session.one("SELECT pg_current_snapshot()::text")[0])


def saw(moment: Moment, xids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which transactions, by the 32 bits of their number that the stream has, a moment saw."""
    before = (xids - (moment.xmax & 0xFFFFFFFF)).astype(np.uint32).view(np.int32) < 0
    if moment.running and before.any():
        before &= ~np.isin(xids, np.array([xid & 0xFFFFFFFF for xid in moment.running], np.int64))
    return before


def await_moment(session: Session, since: int, tables: Sequence[str]) -> Moment:
    """Begins a read transaction in which tables cannot be altered, and looks which transactions it sees.

    It waits, not for ever, for a moment at which every transaction below ``since`` has ended; the caller checks.

    Args:
        session: Outside a transaction.
        since: Number of a transaction.
        tables: As SQL.
    """
    deadline = time.monotonic() + SINCE_TIMEOUT_S
    while True:
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            # The lock comes before the look, so that what is seen of the catalog is what is there.
            session.run(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE")
            moment = current_moment(session)
        except BaseException:
            with suppress(RaypipeError):
                session.run("ROLLBACK")
            raise
        if moment.xmin >= since or time.monotonic() > deadline:
            return moment
        session.run("ROLLBACK")
        time.sleep(_LOOK_EVERY_S)


class Visible:
    """Transactions that were read from the stream and of which it is not known yet that everybody sees them."""

    def __init__(self) -> None:
        self._read: list[npt.NDArray[np.int64]] = []

    def add(self, xids: npt.NDArray[np.int64]) -> None:
        """These were read."""
        if len(xids):
            self._read.append(xids.copy())

    def settle(self, session: Session) -> None:
        """Waits until a transaction that begins from now on sees all of them.

        Raises:
            Unavailable: one stays invisible, as commits that wait for a standby do.
        """
        if not self._read:
            return
        xids = np.concatenate(self._read)
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while not saw(current_moment(session), xids).all():
            if time.monotonic() > deadline:
                raise Unavailable(
                    "A transaction that PostgreSQL has sent already is not visible yet.",
                    remedy="Its commit waits for a synchronous standby; see pg_stat_replication.",
                )
            time.sleep(_LOOK_EVERY_S)
        self._read.clear()


@dataclass(frozen=True, kw_only=True)
class Passing:
    """Decides which images of a loading table belong to its loaded part.

    Attributes:
        session: To ask the server in.
        table: That is loading.
        load: How far.
    """

    session: Session
    table: Table
    load: Load

    def mask(self, columns: Mapping[str, pa.Array], xids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """True for each image that follows.

        Args:
            columns: The images' columns by name; of a table with a key at least that.
            xids: Of the transaction of each image.
        """
        load, chunk = self.load, self.load.chunk
        if chunk is None and not load.cursor:
            return np.zeros(len(xids), np.bool_)
        if chunk is not None and chunk.last and not chunk.low:
            return ~saw(chunk.seen, xids)  # the whole table is the chunk: no key needs to be compared
        keys = [columns[name] for name in self.table.key]
        if chunk is None:
            loaded: npt.NDArray[np.bool_] = self._places(keys, (), load.cursor) == WITHIN
            return loaded
        found = self._places(keys, chunk.low, None if chunk.last else load.cursor)
        follows: npt.NDArray[np.bool_] = (found == BELOW) | ((found == WITHIN) & ~saw(chunk.seen, xids))
        return follows

    def _places(self, keys: Sequence[pa.Array], low: Sequence[str], high: Sequence[str] | None) -> Numbers:
        return places(self.session, self.table, keys, low, high)


def watermark(session: Session) -> int:
    """Writes into the stream; returns a place in it behind every transaction that any earlier look saw."""
    text = session.one(f"SELECT pg_logical_emit_message(true, 'raypipe', {literal(session.address.slot)})::text")[0]
    return lsn_of(text)


def passed(loading: Mapping[str, Load], lsn: int) -> dict[str, Load]:
    """The loads once the stream has reached an LSN: chunks that lie behind it are parts of their tables."""
    left = {}
    for path, load in loading.items():
        chunk = load.chunk
        if chunk is None or lsn < chunk.until:
            left[path] = load
        elif not chunk.last:
            left[path] = replace(load, chunk=None)
    return left
