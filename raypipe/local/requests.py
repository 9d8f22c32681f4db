"""What a reader does now and then beside reading: looks for requests, and asks what the source keeps for it."""

from __future__ import annotations

import time

from raypipe.contracts import CanPauseLoads, CanReadAgain, KeepsForUs, Log, Piece, Source
from raypipe.engine.snapshots import answered, answered_again, asked_again, read_request
from raypipe.model import OP, Op

LOOK_EVERY_S = 1.0
ASK_EVERY_S = 5.0


class Requests:
    """Of one reader, over all its attempts."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        self._source: Source | None = None
        self._taken: set[str] = set()
        self._wishes: set[str] = set()
        self._asked_at = 0.0
        self._kept: dict[str, int] = {}

    @property
    def taken(self) -> bool:
        """Whether the log does not hold yet what was taken up: `done` must hear of each piece."""
        return bool(self._taken or self._wishes)

    def due(self, source: Source) -> bool:
        """Whether to look again; one that was just opened knows nothing of a pause."""
        return source is not self._source or time.monotonic() - self._looked_at >= LOOK_EVERY_S

    def look(self, log: Log, source: Source) -> tuple[str, ...]:
        """Tables that a person wants to be loaded and that were not taken up yet; lets loads rest or go on."""
        if not self.due(source):
            return ()
        self._looked_at, self._source = time.monotonic(), source
        request = read_request(log, source.instance)
        if isinstance(source, CanPauseLoads):
            source.pause_loads(request.paused)
        if isinstance(source, CanReadAgain):
            wishes = asked_again(log, source.instance)
            for wish in wishes:
                source.read_again(wish)
            self._wishes = {wish.id for wish in wishes}
        wanted = tuple(table for table in request.tables if table not in self._taken)
        self._taken.update(wanted)
        return wanted

    def kept(self, source: Source) -> dict[str, int]:
        """What the source's database keeps for us now; asked only every few seconds."""
        now = time.monotonic()
        if isinstance(source, KeepsForUs) and now - self._asked_at >= ASK_EVERY_S:
            self._asked_at, self._kept = now, dict(source.kept())
        return self._kept

    def done(self, log: Log, source: Source, piece: Piece) -> None:
        """Forgets a request once the beginning of the load, or what it asked to be read again, is in the log."""
        answered_again(log, source.instance, piece.answered)
        self._wishes.difference_update(piece.answered)
        if not self._taken:
            return
        begun = {
            str(batch.schema.table)
            for batch in piece.batches
            if (batch.rows.column(OP).to_numpy(zero_copy_only=False) == Op.TRUNCATE).any()
        } & self._taken
        if begun:
            answered(log, source.instance, begun)
            self._taken -= begun
