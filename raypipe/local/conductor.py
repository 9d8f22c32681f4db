"""A run from beginning to end: claims the pipeline, opens sinks, starts readers, and drives epochs until told to stop.

The conductor decides nothing about data (``raypipe.engine.coordinator`` does) and touches none (its crew does). Local
and Ray runs differ only in the crew.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event

from raypipe import faults
from raypipe.contracts import Crew, Log, ReaderReport
from raypipe.engine.backoff import Backoff
from raypipe.engine.coordinator import Coordinator, OpenSink, RunEpoch, Wait
from raypipe.engine.reload import tables_to_reload
from raypipe.engine.sizing import EpochSizing
from raypipe.engine.status import HEARTBEAT_S, STATUS_NOTE, SinkStatus, Status
from raypipe.errors import Directive, Fenced, InvariantBroken, RaypipeError, SourceGap, Unavailable
from raypipe.local.carry import Interrupted
from raypipe.local.holds import Holds
from raypipe.local.tally import Tally, instance_status, sink_status
from raypipe.model import Claim, Committed, Cut
from raypipe.plan.model import Plan
from raypipe.spec.url import redact

logger = logging.getLogger(__name__)

Until = str | float
Observer = Callable[[Status], None]

# How often an idle conductor looks for a new cut. It bounds what waiting adds to freshness; a look is 30 microseconds.
LOOK_S = 0.003
# Once nothing has come for a while it looks less often: the first change after a pause may wait this much longer.
QUIET_AFTER_S, QUIET_LOOK_S = 1.0, 0.015
# The log is trimmed at most this often: deleting is a write transaction that the readers wait for.
TRIM_S = 1.0
# A bounded run (until idle, or for a time) gives up on a store that has failed for so long; an endless run never does.
GIVE_UP_S = 60.0


class Conductor:
    """One run.

    Args:
        plan: What to run.
        log: For the conductor's thread.
        crew: Who does the work.
        until: ``"idle"`` (everything the sources have is in every sink), ``"forever"``, or seconds.
        observer: Called about twice a second, and at the end.
        stop: Set by others to end the run cleanly.
        runner: ``local`` or ``ray``, for the status.
    """

    def __init__(
        self, *, plan: Plan, log: Log, crew: Crew, until: Until, observer: Observer, stop: Event, runner: str
    ) -> None:
        self._plan = plan
        self._log = log
        self._crew = crew
        self._until = until
        self._observer = observer
        self._stop = stop
        self._runner = runner
        sizing = EpochSizing(int(plan.limits.get("epoch_bytes", 64 << 20)))
        self._coordinator = Coordinator(crew.sinks(), sizing)
        self._holds = Holds(log, crew, self._coordinator)
        self._claim = Claim(pipeline=plan.pipeline, run=0, generation=0)
        self._state = "starting"
        self._error = ""
        self._began = self._busy_at = time.monotonic()
        self._told_at = 0.0
        self._trimmed_at = 0.0
        self._tally = Tally()
        self._last_cut: Cut | None = None

    def run(self) -> Status:
        """Runs until the condition, the stop event or an error no retry can mend.

        Raises:
            Fenced: a later run took the pipeline over.
            RaypipeError: the run cannot go on; everything committed so far stays right.
        """
        try:
            self._claim_pipeline()
            self._tell()
            self._start()
            self._state = "running"
            self._loop()
            self._state = "stopping"
        except Fenced as error:
            fenced = self._fenced(error)
            self._state, self._error = "failed", str(fenced)
            raise fenced from error
        except RaypipeError as error:
            self._state, self._error = "failed", str(error)
            raise
        except Exception as error:
            self._state, self._error = "failed", f"{type(error).__name__}: {error}"
            raise
        finally:
            if self._state != "failed":
                self._tell()
            self._crew.close()
            if self._state == "stopping":
                self._state = "stopped"
            self._tell()
        return self.status()

    def _claim_pipeline(self) -> None:
        """Takes the pipeline over, waiting for a log that is locked."""
        backoff = Backoff()
        while True:
            try:
                self._claim = self._log.claim(self._plan.pipeline)
                return
            except Unavailable as error:
                now = time.monotonic()
                backoff = backoff.after_failure(now, at_once=False)
                if self._stop.is_set() or backoff.exhausted(now, self._give_up_s()):
                    raise self._gave_up("the log", str(error)) from error
                self._stop.wait(backoff.retry_at - now)

    def _fenced(self, error: Fenced) -> Fenced:
        return Fenced(
            f"A later run of pipeline {self._plan.pipeline} took over from run {self._claim.run}; this one stopped, "
            "and nothing it still had in hand was written.",
            remedy="Let only one run of a pipeline be at work.",
            cause=error,
            run=self._claim.run,
        )

    def _start(self) -> None:
        opened = self._open_all()
        if opened is not None and not self._crew.fits():
            for sink in opened:
                self._coordinator.reopen(sink)
            opened = self._open_all()
        if opened is None:
            return
        reload = tables_to_reload(self._plan, self._crew.sinks(), opened, self._log.load_begins)
        if reload:
            logger.info("tables will be loaded again", extra={"tables": [each.table for each in reload]})
        self._crew.start_readers(self._log.renew(self._claim), reload)

    def _open_all(self) -> dict[str, Committed] | None:
        """Opens every sink, however long it takes; None if the run shall end."""
        opened: dict[str, Committed] = {}
        while len(opened) < len(self._crew.sinks()):
            decision = self._coordinator.decide([], time.monotonic())
            if isinstance(decision, OpenSink):
                committed = self._open(decision.sink)
                if committed is not None:
                    opened[decision.sink] = committed
            elif not self._pause(decision):
                return None
        return opened

    def _loop(self) -> None:
        log_trouble = Backoff()
        while not self._stop.is_set():
            try:
                if self._turn(time.monotonic()):
                    return
                log_trouble = Backoff()
            except Unavailable as error:
                # Only the log can be meant: what sources and sinks suffer is kept with them.
                now = time.monotonic()
                log_trouble = log_trouble.after_failure(now, at_once=False)
                if log_trouble.exhausted(now, self._give_up_s()):
                    raise self._gave_up("the log", str(error)) from error
                self._stop.wait(log_trouble.retry_at - now)

    def _turn(self, now: float) -> bool:
        """One turn of the loop; True when the run has reached its end."""
        reports = self._crew.readers()
        self._check(reports, now)
        # Order matters for "idle": readers that found nothing, then the newest cut, then the sinks.
        nothing_new = all(report.settled for report in reports.values()) and not self._holds.active
        self._last_cut = self._log.known_cut()
        if self._finished(nothing_new, now):
            return True
        self._housekeeping(now)
        behind = self._coordinator.furthest_behind()
        fresh = self._last_cut is not None and self._last_cut.number > behind
        decision = self._coordinator.decide(self._log.cuts(after=behind) if fresh else [], now)
        if isinstance(decision, RunEpoch):
            self._busy_at = now
            self._carry(decision)
        elif isinstance(decision, OpenSink):
            self._open(decision.sink)
        else:
            self._crew.rest()
            self._stop.wait(LOOK_S if now - self._busy_at < QUIET_AFTER_S else QUIET_LOOK_S)
        return False

    def _give_up_s(self) -> float | None:
        return None if self._until == "forever" else GIVE_UP_S

    def _check(self, reports: Mapping[str, ReaderReport], now: float) -> None:
        give_up_s = self._give_up_s()
        for instance, report in reports.items():
            if report.fatal is not None:
                raise report.fatal
            if give_up_s is not None and report.failing_s > give_up_s:
                raise self._gave_up(f"source {instance}", report.error)
        sink = self._coordinator.exhausted(now, give_up_s)
        if sink is not None:
            raise self._gave_up(f"sink {sink}", self._coordinator.sinks[sink].error)

    def _gave_up(self, what: str, error: str) -> RaypipeError:
        return Unavailable(
            f"Gave up on {what} after {GIVE_UP_S:.0f} s without success: {error}",
            remedy="Nothing is lost: mend it and run again; the run resumes where each sink stands.",
        )

    def _finished(self, nothing_new: bool, now: float) -> bool:
        if isinstance(self._until, int | float):
            return now - self._began >= self._until
        if self._until != "idle":
            return False
        if not nothing_new or not self._coordinator.caught_up(self._last_cut):
            return False
        # The readers had nothing more when they were asked, so what the log has committed by now is all there is.
        self._last_cut = self._log.last_cut()
        return self._coordinator.caught_up(self._last_cut)

    def _housekeeping(self, now: float) -> None:
        self._holds.serve(time.time())
        if now - self._told_at >= HEARTBEAT_S:
            self._notice_successor()
            self._tell()
        if now - self._trimmed_at >= TRIM_S:
            self._trimmed_at = now
            self._trim()

    def _notice_successor(self) -> None:
        """An idle run commits nothing and so would not hear that it was fenced; its successor's note tells it."""
        if self._successor_exists():
            raise Fenced("Its status says so.")

    def _trim(self) -> None:
        oldest = self._coordinator.forgettable()
        if faults.armed("mutant.retain_early"):
            oldest = self._log.last_cut()
        if oldest is not None:
            self._log.retain(oldest)
            self._crew.keep(self._coordinator.goes_on_from())

    def _open(self, sink: str) -> Committed | None:
        now = time.monotonic()
        try:
            committed = self._open_as_ours(sink)
            self._coordinator.opened(sink, self._resolve(sink, committed.cut))
        except RaypipeError as error:
            self._failed(sink, error, now)
            return None
        return committed

    def _open_as_ours(self, sink: str) -> Committed:
        """Opens a sink; tells a later run of this log from one of another log, whose generations mean nothing here."""
        try:
            return self._crew.open_sink(sink, self._log.renew(self._claim))
        except Fenced as error:
            self._log.renew(self._claim)  # fenced again if there is a later run
            raise self._of_another_log(f"Sink {sink} was claimed by a run", sink) from error

    def _of_another_log(self, what: str, sink: str) -> SourceGap:
        return SourceGap(
            f"{what} of another log than {redact(self._plan.log)}.",
            remedy="Put the old log back, or remove the log and what the sink holds (its tables, and "
            "raypipe_commits where there is one), and run again to load anew.",
            sink=sink,
        )

    def _resolve(self, sink: str, cut: Cut | None) -> Cut | None:
        """The cut a sink names, as this log knows it: a store keeps the number, the log what it means.

        Raises:
            SourceGap: it is a cut of another log, or one this log never had.
        """
        if cut is None:
            return None
        known = self._log.cut(cut.number)
        if known is None or (cut.log and cut.log != self._log.identity):
            raise self._of_another_log(f"Sink {sink} holds cut {cut.number}", sink)
        return known

    def _carry(self, order: RunEpoch) -> None:
        began = time.monotonic()
        try:
            outcome = self._crew.carry(order.sinks, order.after, order.upto, self._keep_going)
        except Interrupted:
            for sink in order.sinks:
                self._coordinator.failed(sink, Interrupted("stopping"), began)
            return
        except RaypipeError as error:
            if error.directive is Directive.STOP:
                raise
            for sink in order.sinks:
                self._failed(sink, error, began)
            return
        now = time.monotonic()
        for sink, committed in outcome.committed.items():
            if committed.cut is None or committed.cut.number < order.upto.number:
                raise InvariantBroken(f"Sink {sink} committed less than epoch {order.upto.number}.")
            self._coordinator.committed(sink, order.upto)
        for sink, failure in outcome.failed.items():
            self._failed(sink, failure, now)
        self._coordinator.observe(outcome.bytes, now - began)
        self._tally.add(outcome, now)

    def _failed(self, sink: str, error: RaypipeError, now: float) -> None:
        if error.directive is Directive.STOP:
            raise error
        logger.warning("sink failed; it will be opened again", extra={"sink": sink, "kind": error.kind.value})
        self._coordinator.failed(sink, error, now)

    def _keep_going(self) -> bool:
        now = time.monotonic()
        if now - self._told_at >= HEARTBEAT_S:
            self._tell()
        if isinstance(self._until, int | float) and now - self._began >= self._until:
            return False
        return not self._stop.is_set()

    def _pause(self, decision: object) -> bool:
        """Waits a little while starting; False if the run shall end."""
        now = time.monotonic()
        self._check({}, now)
        if now - self._told_at >= HEARTBEAT_S:
            self._tell()
        until = decision.until if isinstance(decision, Wait) else None
        self._stop.wait(max(LOOK_S, min((until or now) - now, HEARTBEAT_S)))
        return not self._stop.is_set()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        status = self.status()
        # A run that was fenced, or paused until now, must not write over its successor's note; nor may a run fail for
        # want of a note.
        if self._claim.run and not self._successor_exists():
            with suppress(RaypipeError):
                self._log.write_note(STATUS_NOTE, status.to_json())
        self._observer(status)

    def _successor_exists(self) -> bool:
        with suppress(RaypipeError):
            text = self._log.notes(STATUS_NOTE).get(STATUS_NOTE)
            return text is not None and Status.from_json(text).run > self._claim.run
        return False

    def status(self) -> Status:
        """What the run is doing now."""
        now = time.monotonic()
        reports = self._crew.readers()
        return Status(
            pipeline=self._plan.pipeline,
            run=self._claim.run,
            state=self._state,
            runner=self._runner,
            pid=os.getpid(),
            host=socket.gethostname(),
            at=time.time(),
            epochs=self._tally.epochs,
            rows=self._tally.rows,
            rows_per_s=self._tally.rows_per_s(now, self._began),
            executors=dict(self._tally.executors),
            stage_s=self._tally.stage_s(reports.values()),
            instances=tuple(instance_status(name, report) for name, report in reports.items()),
            sinks=tuple(self._sink_status(name) for name in self._crew.sinks()),
            error=self._error,
        )

    def _sink_status(self, name: str) -> SinkStatus:
        progress = self._coordinator.sinks[name]
        return sink_status(name, progress, self._last_cut, lambda: self._lag_s(progress.cut))

    def _lag_s(self, held: Cut | None) -> float:
        with suppress(RaypipeError):
            for oldest in self._log.cuts(after=held.number if held is not None else 0, limit=1):
                return round(max(0.0, time.time() - oldest.at), 3)
        return 0.0
