"""A reader at work: one thread that drives a pump, obeys orders and starts again after failures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace

from raypipe.contracts import Log, Piece, ReaderOrder, ReaderReport, Reload, Source
from raypipe.engine.backoff import Backoff
from raypipe.engine.pump import Pump
from raypipe.errors import Directive, InvariantBroken, RaypipeError
from raypipe.local.requests import Requests
from raypipe.local.ticking import Ticking
from raypipe.model import Claim

logger = logging.getLogger(__name__)

# An idle source is asked again at the latest after this; ``Source.wait`` returns earlier when something came.
IDLE_WAIT_S = 0.05


class Reader:
    """Runs in a thread of its own from ``start`` to ``stop``; every other method may be called from any thread.

    Args:
        open_source: Makes the source; called again after each failure.
        open_log: Makes a log object for this thread.
        prefix: Of the topics.
        claim: The right to write; renewed whenever the pump is made again.
        reload: Tables to load again; asked of the source until the log holds their loads.
        poll_bytes: Soft bound of one log transaction.
        log_bytes: The reader waits while the log keeps more than this, but never inside a source transaction: the
            sinks cannot move on, and the log cannot shrink, before its cut.
        clock_s: How old the newest cut may become while nothing happens, seconds; None if nobody asks for the time.
    """

    def __init__(
        self,
        *,
        open_source: Callable[[], Source],
        open_log: Callable[[], Log],
        prefix: str,
        claim: Claim,
        reload: Collection[Reload],
        poll_bytes: int,
        log_bytes: int,
        clock_s: float | None = None,
    ) -> None:
        self._open_source = open_source
        self._open_log = open_log
        self._prefix = prefix
        self._claim = claim
        self._reload = tuple(reload)
        self._poll_bytes = poll_bytes
        self._log_bytes = log_bytes
        self._ticking = Ticking(clock_s)
        self._order = ReaderOrder()
        self._report = ReaderReport(reload=self._reload)
        self._rows_before = 0
        self._parked_before = 0
        self._seconds_before: dict[str, float] = {}
        self._requests = Requests()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"reader-{prefix}", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends after the log transaction in hand; idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def order(self, order: ReaderOrder) -> None:
        """Takes effect before the next piece; ``report().order`` says when."""
        self._order = order

    def report(self) -> ReaderReport:
        """The newest report."""
        return self._report

    def _run(self) -> None:
        backoff = Backoff()
        renewing = False
        while not self._stopping.is_set():
            try:
                self._serve(renewing)
            except RaypipeError as error:
                if error.directive is Directive.STOP:
                    self._tell(state="failed", error=str(error), fatal=error)
                    return
                now = time.monotonic()
                if self._report.error == "":
                    backoff = Backoff()  # it worked for a while since the last failure
                backoff = backoff.after_failure(now, at_once=error.directive is Directive.REOPEN)
                self._tell(state="retrying", error=str(error), failing_s=now - backoff.since, settled=False)
                self._stopping.wait(backoff.retry_at - now)
                renewing = True
            except Exception as error:
                logger.exception("reader failed unexpectedly")
                fatal = InvariantBroken(f"The reader of {self._prefix} failed unexpectedly.", cause=error)
                self._tell(state="failed", error=f"{fatal} ({fatal.cause})", fatal=fatal)
                return

    def _serve(self, renewing: bool) -> None:
        source = log = pump = None
        try:
            log = self._open_log()
            if renewing:
                self._claim = log.renew(self._claim)
            source = self._open_source()
            pump = Pump(source, log, self._prefix, self._claim, self._poll_bytes)
            if log.position(source.instance) is None:
                self._reload = ()  # nothing of it is in the log: the source loads all of its tables
            # A commit whose reply was lost may have begun a load already: the log knows, this object does not.
            self._forget_fulfilled(log)
            pump.open([each.table for each in self._reload])
            self._pump(pump, source, log)
        finally:
            for each in (pump, source, log):
                if each is not None:
                    with suppress(RaypipeError):
                        each.close()

    def _reloads(self, source: Source, log: Log, wanted: Collection[str]) -> Iterator[Reload]:
        for schema in source.tables():
            if str(schema.table) in wanted:
                topic = schema.table.topic(self._prefix)
                begun = log.load_begins(topic)
                yield Reload(instance=source.instance, table=str(schema.table), topic=topic, begun=begun)

    def _forget_fulfilled(self, log: Log) -> None:
        self._reload = tuple(each for each in self._reload if not each.fulfilled(log.load_begins(each.topic)))

    def _pump(self, pump: Pump, source: Source, log: Log) -> None:
        self._tell(state="streaming", position=pump.position, error="", failing_s=0.0, settled=False)
        while not self._stopping.is_set():
            order, piece = self._order, None
            full = pump.log_bytes > self._log_bytes
            if pump.whole and (order.hold or full or self._requests.due(source)):
                piece = pump.finish()
                if piece is None and order.hold:
                    self._tell(state="held", order=order, settled=True)
                    self._stopping.wait(IDLE_WAIT_S / 5)
                    continue
                if piece is None and (wanted := self._requests.look(log, source)):
                    self._reload += tuple(self._reloads(source, log, wanted))
                    return  # and open the source again
                if piece is None and full:
                    self._tell(state="full", order=order, settled=False)
                    self._stopping.wait(IDLE_WAIT_S)
                    continue
            if piece is None:
                alone = order.hold or bool(self._reload) or self._requests.taken
                piece = pump.advance(order.upto, ahead=not alone)
            if piece is not None:
                self._take_note(pump, source, log, order, piece)
                continue
            if self._ticking.tick(pump):
                continue
            kept = self._requests.kept(source)
            self._tell(state="streaming", order=order, settled=True, pending=0, position=pump.position, kept=kept)
            source.wait(IDLE_WAIT_S)

    def _take_note(self, pump: Pump, source: Source, log: Log, order: ReaderOrder, piece: Piece) -> None:
        """Says in the report what a piece that is durable has changed."""
        if not pump.at_work:
            self._requests.done(log, source, piece)
            if self._reload:
                self._forget_fulfilled(log)
        figures = pump.figures
        self._rows_before += figures.rows
        self._parked_before += figures.parked
        for stage, seconds in figures.seconds.items():
            self._seconds_before[stage] = self._seconds_before.get(stage, 0.0) + seconds
        figures.rows = figures.parked = 0
        figures.seconds = dict.fromkeys(figures.seconds, 0.0)
        loading = source.progress() if piece.loading else {}
        self._tell(
            state="loading" if piece.loading else "streaming",
            order=order,
            settled=False,
            position=pump.position,
            loading=dict(loading),
            pending=piece.pending,
            parked=self._parked_before,
            rows=self._rows_before,
            seconds=dict(self._seconds_before),
            kept=self._requests.kept(source),
            reload=self._reload,
            error="",
            failing_s=0.0,
        )

    def _tell(self, **news: object) -> None:
        self._report = replace(self._report, **news)  # type: ignore[arg-type]
