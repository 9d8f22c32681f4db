"""A run from beginning to end: claims the pipeline, opens sinks, starts readers, and drives epochs until told to stop.

The conductor decides nothing about data (``raypipe.engine.coordinator`` does) and touches none (its crew does). Local
and Ray runs differ only in the crew. What is the run's own is in ``ownership``, what it says of itself in ``teller``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from threading import Event

from raypipe import faults
from raypipe.contracts import Crew, Log, ReaderReport
from raypipe.engine.backoff import Backoff
from raypipe.engine.coordinator import Coordinator, OpenSink, RunEpoch, Wait
from raypipe.engine.reload import tables_to_reload
from raypipe.engine.sizing import EpochSizing
from raypipe.engine.status import HEARTBEAT_S, CarryingOn, Status
from raypipe.errors import Directive, Fenced, InvariantBroken, RaypipeError, Unavailable
from raypipe.local.carry import Interrupted
from raypipe.local.checkpointing import Checkpointing
from raypipe.local.holds import Holds
from raypipe.local.ownership import Ownership
from raypipe.local.reshards import Reshards
from raypipe.local.teller import Observer, Teller
from raypipe.model import Committed
from raypipe.plan.model import Plan

logger = logging.getLogger(__name__)

Until = str | float

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
        self._stop = stop
        self._ownership = Ownership(plan, log, crew)
        sizing = EpochSizing(plan.epoch_bytes)
        self._coordinator = Coordinator(crew.sinks(), sizing)
        self._holds = Holds(log, crew, self._coordinator)
        self._checkpointing = Checkpointing(plan, log, crew) if plan.checkpoints else None
        self._teller = Teller(
            pipeline=plan.pipeline,
            log=log,
            crew=crew,
            coordinator=self._coordinator,
            observer=observer,
            runner=runner,
        )
        self._reshards = Reshards(log, crew, self._coordinator, self._ownership.renewed, self._teller.tell)
        self._began = self._busy_at = time.monotonic()
        self._trimmed_at = 0.0

    def run(self) -> Status:
        """Runs until the condition, the stop event or an error no retry can mend.

        Raises:
            Fenced: a later run took the pipeline over.
            RaypipeError: the run cannot go on; everything committed so far stays right.
        """
        teller = self._teller
        try:
            self._claim_pipeline()
            teller.tell()
            self._start()
            teller.state = "running"
            self._loop()
            teller.state = "stopping"
        except Fenced as error:
            fenced = self._ownership.lost(error)
            teller.failed(str(fenced))
            raise fenced from error
        except RaypipeError as error:
            teller.failed(str(error))
            raise
        except Exception as error:
            teller.failed(f"{type(error).__name__}: {error}")
            raise
        finally:
            if teller.state != "failed":
                teller.tell()
            self._crew.close()
            if teller.state == "stopping":
                teller.state = "stopped"
            teller.tell()
        return teller.status()

    def _claim_pipeline(self) -> None:
        """Takes the pipeline over, waiting for a log that is locked."""
        backoff = Backoff()
        while True:
            try:
                self._teller.run = self._ownership.claim()
                return
            except Unavailable as error:
                now = time.monotonic()
                backoff = backoff.after_failure(now, at_once=False)
                if self._stop.is_set() or backoff.exhausted(now, self._give_up_s()):
                    raise self._gave_up("the log", str(error)) from error
                self._stop.wait(backoff.retry_at - now)

    def _start(self) -> None:
        while True:
            opened = self._open_all()
            if opened is None:
                return
            if self._fits(opened):
                break
            if self._stop.is_set():
                return
        reload = tables_to_reload(self._plan, self._crew.sinks(), opened, self._log.load_begins)
        if reload:
            logger.info("tables will be loaded again", extra={"tables": [each.table for each in reload]})
        self._crew.start_readers(self._ownership.renewed(), reload)

    def _fits(self, opened: Collection[str]) -> bool:
        """Whether the state fits the sinks; if not, all of them are to be opened again."""
        try:
            if self._crew.fits(self._carrying_on):
                return True
        except Interrupted:
            pass
        except RaypipeError as error:
            now = time.monotonic()
            for sink in opened:
                self._failed(sink, error, now)
            return False
        finally:
            self._teller.carrying_on = None
        for sink in opened:
            self._coordinator.reopen(sink)
        return False

    def _carrying_on(self, cut: int, upto: int) -> None:
        self._teller.carrying_on = CarryingOn(cut=cut, upto=upto)
        if self._teller.due(time.monotonic()):
            self._teller.tell()
        if self._stop.is_set():
            raise Interrupted("The run is ending; the state is carried on by the next one.")

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
        self._teller.last_cut = self._log.known_cut()
        if self._finished(nothing_new, now):
            return True
        self._housekeeping(now)
        behind = self._coordinator.furthest_behind()
        fresh = self._teller.last_cut is not None and self._teller.last_cut.number > behind
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
        if not nothing_new or not self._coordinator.caught_up(self._teller.last_cut):
            return False
        # The readers had nothing more when they were asked, so what the log has committed by now is all there is.
        self._teller.last_cut = self._log.last_cut()
        return self._coordinator.caught_up(self._teller.last_cut)

    def _housekeeping(self, now: float) -> None:
        self._holds.serve(time.time())
        self._reshards.serve(self._teller.run, now)
        if self._teller.due(now):
            self._notice_successor()
            self._teller.tell()
        if now - self._trimmed_at >= TRIM_S:
            self._trimmed_at = now
            self._trim(now)

    def _notice_successor(self) -> None:
        """An idle run commits nothing and so would not hear that it was fenced; its successor's note tells it."""
        if self._teller.later_run_tells():
            raise Fenced("Its status says so.")

    def _trim(self, now: float) -> None:
        oldest = self._coordinator.forgettable()
        if faults.armed("mutant.retain_early"):
            oldest = self._log.last_cut()
        if oldest is not None:
            needed = self._checkpointing.look(oldest, now) if self._checkpointing is not None else oldest
            if needed is not None:
                self._log.retain(needed)
            self._crew.keep(self._coordinator.goes_on_from())

    def _open(self, sink: str) -> Committed | None:
        now = time.monotonic()
        try:
            committed, cut = self._ownership.open_sink(sink)
            self._coordinator.opened(sink, cut)
        except RaypipeError as error:
            self._failed(sink, error, now)
            return None
        return committed

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
        self._teller.tally.add(outcome, now)

    def _failed(self, sink: str, error: RaypipeError, now: float) -> None:
        if error.directive is Directive.STOP:
            raise error
        logger.warning("sink failed; it will be opened again", extra={"sink": sink, "kind": error.kind.value})
        self._coordinator.failed(sink, error, now)

    def _keep_going(self) -> bool:
        now = time.monotonic()
        if self._teller.due(now):
            self._teller.tell()
        if isinstance(self._until, int | float) and now - self._began >= self._until:
            return False
        return not self._stop.is_set()

    def _pause(self, decision: object) -> bool:
        """Waits a little while starting; False if the run shall end."""
        now = time.monotonic()
        self._check({}, now)
        if self._teller.due(now):
            self._teller.tell()
        until = decision.until if isinstance(decision, Wait) else None
        self._stop.wait(max(LOOK_S, min((until or now) - now, HEARTBEAT_S)))
        return not self._stop.is_set()
