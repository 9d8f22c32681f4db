"""The reader's protocol: changes go from a source into the log, and only then does the source hear of it.

One log transaction carries rows, position and cut. After a crash at any point the reader resumes at the position *in
the log*: what was appended without its commit is not there, what was committed without its acknowledgement is read
from the position on and so not twice.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from raypipe import faults
from raypipe.contracts import Log, Piece, Source
from raypipe.model import Claim


@dataclass(kw_only=True)
class PumpFigures:
    """What a pump has done since it was made; read by other threads, written by one."""

    rows: int = 0
    parked: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"read_source": 0.0, "append_log": 0.0})


class Pump:
    """Moves changes of one instance into the log, one transaction at a time.

    Args:
        source: Of the instance.
        log: To append to.
        prefix: Of the topics; the pipeline's name.
        claim: The right to write.
        poll_bytes: Soft bound of one transaction.
    """

    def __init__(self, source: Source, log: Log, prefix: str, claim: Claim, poll_bytes: int) -> None:
        self._source = source
        self._log = log
        self._prefix = prefix
        self._claim = claim
        self._poll_bytes = poll_bytes
        self.position: str | None = None
        self.whole = True  # the last piece ended on a transaction boundary
        self.figures = PumpFigures()

    def open(self, reload: Collection[str] = ()) -> None:
        """Goes to the position in the log and makes the source ready.

        Raises:
            SourceGap: the source cannot continue from there.
            Unavailable: source or log do not answer.
        """
        self.position = self._log.position(self._source.instance)
        self._source.open(self.position, reload)

    def advance(self, upto: str | None = None) -> Piece | None:
        """Moves one piece; None if there is nothing new.

        Raises:
            Fenced: a later run owns the log; nothing was written.
            OutcomeUnknown: make a new pump; it will read the position back.
        """
        faults.point("source.poll.before")
        began = time.perf_counter()
        piece = self._source.poll(self._poll_bytes, upto)
        read = time.perf_counter()
        self.figures.seconds["read_source"] += read - began
        faults.point("source.poll.after")
        if piece is None:
            return None
        if faults.armed("mutant.acknowledge_early"):
            self._source.acknowledge(piece.position)
        transaction = self._log.begin(self._source.instance, self._claim)
        try:
            for batch in piece.batches:
                transaction.append(batch.schema.table.topic(self._prefix), batch)
            transaction.commit(piece.position, boundary=piece.boundary, loading=piece.loading)
        except BaseException:
            transaction.abort()
            raise
        self.figures.seconds["append_log"] += time.perf_counter() - read
        self.figures.rows += sum(batch.num_rows for batch in piece.batches)
        self.figures.parked += piece.parked
        self.position = piece.position
        self.whole = piece.boundary
        faults.point("source.acknowledge.before")
        self._source.acknowledge(piece.position)
        faults.point("source.acknowledge.after")
        return piece
