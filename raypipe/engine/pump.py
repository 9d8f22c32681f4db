"""The reader's protocol: changes go from a source into the log, and only then does the source hear of it.

One log transaction carries rows, position and cut. After a crash at any point the reader resumes at the position *in
the log*: what was appended without its commit is not there, what was committed without its acknowledgement is read
from the position on and so not twice.

While one piece is being committed the next may be read already. Nothing depends on it: a piece that was only read is
forgotten with its reader, and the source hears of each piece only after its own commit. Likewise the log lets a writer
in while the source is opened and the first piece is read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from raypipe import faults
from raypipe.contracts import CanPrepare, Log, Piece, Source
from raypipe.model import Claim, Cut


@dataclass(kw_only=True)
class PumpFigures:
    """What a pump has done since it was made; its two stages overlap in time."""

    rows: int = 0
    parked: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"read_source": 0.0, "append_log": 0.0})


class _Work:
    """Work on the log, in a thread of its own.

    Args:
        name: Of the thread.
        work: To do.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._work = work
        self._failure: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.perf_counter()
        try:
            self._work()
        except BaseException as failure:
            self._failure = failure
        self.seconds = time.perf_counter() - began

    @property
    def at_work(self) -> bool:
        """Whether it is not done."""
        return self._thread.is_alive()

    def end(self) -> BaseException | None:
        """Waits until it is done, which the log's own deadlines bound; returns what it failed with."""
        self._thread.join()
        return self._failure


class Pump:
    """Moves changes of one instance into the log, one transaction at a time. Used by one thread.

    Args:
        source: Of the instance.
        log: To append to; not to be used by others while `at_work`.
        prefix: Of the topics; the pipeline's name.
        claim: The right to write.
        poll_bytes: Soft bound of one transaction; two may be in memory.
    """

    def __init__(self, source: Source, log: Log, prefix: str, claim: Claim, poll_bytes: int) -> None:
        self._source = source
        self._log = log
        self._prefix = prefix
        self._claim = claim
        self._poll_bytes = poll_bytes
        self._preparation: _Work | None = None
        self._append: tuple[Piece, _Work] | None = None
        self._log_bytes = 0
        self.position: str | None = None
        self.whole = True  # what was read last ended on a transaction boundary
        self.figures = PumpFigures()

    def open(self, reload: Collection[str] = ()) -> None:
        """Goes to the position in the log and makes the source ready.

        Raises:
            SourceGap: the source cannot continue from there.
            Unavailable: source or log do not answer.
        """
        self.position = self._log.position(self._source.instance)
        if isinstance(self._log, CanPrepare):
            prepare, self._log_bytes = self._log.prepare, self._log.size()
            self._preparation = _Work("prepare", lambda: prepare(self._source.instance, self._claim))
        self._source.open(self.position, reload)

    @property
    def at_work(self) -> bool:
        """Whether a piece is on its way into the log, or the log still lets the writer in."""
        return self._append is not None or (self._preparation is not None and self._preparation.at_work)

    @property
    def log_bytes(self) -> int:
        """What the log keeps, as of the last commit or of now."""
        return self._log_bytes if self.at_work else self._log.size()

    def advance(self, upto: str | None = None, *, ahead: bool = True) -> Piece | None:
        """Moves one piece and returns it once it is durable; None if there is nothing new.

        Args:
            upto: Do not read beyond this position.
            ahead: Read the next piece meanwhile; it stays `at_work` if there is one.

        Raises:
            Fenced: a later run owns the log; nothing was written.
            OutcomeUnknown: make a new pump; it will read the position back.
        """
        if self._append is None:
            first = self._read(upto)
            if first is None:
                if not self.at_work:
                    self._require_prepared()  # a writer that was not let in need not wait for changes to say so
                return None
            self._begin(first)
        following = self._read(upto) if ahead and self._source.wait(0.0) else None
        moved = self.finish()
        if following is not None:
            self._begin(following)
        return moved

    def finish(self) -> Piece | None:
        """Waits for the piece on its way and tells the source; returns it, None if there is none.

        Raises:
            RaypipeError: as `advance` does.
        """
        if self._append is None:
            self._require_prepared()
            return None
        (piece, append), self._append = self._append, None
        failure = append.end()
        if failure is not None:
            raise failure
        self.figures.rows += sum(batch.num_rows for batch in piece.batches)
        self.figures.parked += piece.parked
        self.figures.seconds["append_log"] += append.seconds
        self.position = piece.position
        faults.point("source.acknowledge.before")
        self._source.acknowledge(piece.position)
        faults.point("source.acknowledge.after")
        return piece

    def newest_cut(self) -> Cut | None:
        """The log's newest cut, once the log can be asked; not while a piece is on its way.

        Raises:
            RaypipeError: as `advance` does.
        """
        self._require_prepared()
        return self._log.last_cut()

    def stand_still(self) -> bool:
        """Makes a cut at the newest cut's own place, in which nothing but the time is another one.

        Returns:
            Whether it did: not inside a transaction, and not before the first cut.

        Raises:
            RaypipeError: as `advance` does.
        """
        cut, instance = self.newest_cut(), self._source.instance
        if cut is None or self.position is None or cut.positions.get(instance) != self.position:
            return False
        loading = [table for table in cut.loading if table.startswith(f"{instance}.")]
        transaction = self._log.begin(instance, self._claim)
        try:
            transaction.commit(self.position, boundary=True, loading=loading)
        except BaseException:
            transaction.abort()
            raise
        return True

    def close(self) -> None:
        """Waits for the piece on its way, whatever becomes of it: the log says; idempotent."""
        append, self._append = self._append, None
        if append is not None:
            append[1].end()
        if self._preparation is not None:
            self._preparation.end()

    def _begin(self, piece: Piece) -> None:
        self._append = (piece, _Work("append", lambda: self._move(piece)))

    def _require_prepared(self) -> None:
        preparation, self._preparation = self._preparation, None
        failure = None if preparation is None else preparation.end()
        if failure is not None:
            raise failure

    def _read(self, upto: str | None) -> Piece | None:
        faults.point("source.poll.before")
        began = time.perf_counter()
        piece = self._source.poll(self._poll_bytes, upto)
        self.figures.seconds["read_source"] += time.perf_counter() - began
        faults.point("source.poll.after")
        if piece is not None:
            self.whole = piece.boundary
            if faults.armed("mutant.acknowledge_early"):
                self._source.acknowledge(piece.position)
        return piece

    def _move(self, piece: Piece) -> None:
        self._require_prepared()
        transaction = self._log.begin(self._source.instance, self._claim)
        try:
            for batch in piece.batches:
                transaction.append(batch.schema.table.topic(self._prefix), batch)
            transaction.commit(piece.position, boundary=piece.boundary, loading=piece.loading)
        except BaseException:
            transaction.abort()
            raise
        self._log_bytes = self._log.size()
