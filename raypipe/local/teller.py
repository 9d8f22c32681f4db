"""Tells what a run is doing: a status about twice a second, in the log for everybody and to an observer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from raypipe.contracts import Crew, Log
from raypipe.engine.coordinator import Coordinator
from raypipe.engine.status import HEARTBEAT_S, STATUS_NOTE, CarryingOn, SinkStatus, Status
from raypipe.errors import RaypipeError
from raypipe.local.tally import Tally, instance_status, sink_status
from raypipe.model import Cut

Observer = Callable[[Status], None]


class Teller:
    """Of one run.

    Args:
        pipeline: Its name.
        log: For the conductor's thread.
        crew: Whose reports it passes on.
        coordinator: Which knows how far each sink is.
        observer: Is told too.
        runner: ``local`` or ``ray``.

    Attributes:
        run: Number of the run; 0 until it has claimed the pipeline, and the log is not told before.
        state: ``starting``, ``running``, ``stopping``, ``stopped`` or ``failed``.
        error: Why it failed.
        last_cut: The newest of the log, as far as the run has looked.
        tally: Of what it has done.
        carrying_on: How far state that was behind the sinks is; None once it has reached them.
    """

    def __init__(
        self, *, pipeline: str, log: Log, crew: Crew, coordinator: Coordinator, observer: Observer, runner: str
    ) -> None:
        self._pipeline = pipeline
        self._log = log
        self._crew = crew
        self._coordinator = coordinator
        self._observer = observer
        self._runner = runner
        self._began = time.monotonic()
        self._told_at = 0.0
        self.run = 0
        self.state = "starting"
        self.error = ""
        self.last_cut: Cut | None = None
        self.tally = Tally()
        self.carrying_on: CarryingOn | None = None

    def failed(self, error: str) -> None:
        """The run ends for this reason."""
        self.state, self.error = "failed", error

    def due(self, now: float) -> bool:
        """Whether it is time to tell again."""
        return now - self._told_at >= HEARTBEAT_S

    def tell(self) -> None:
        """Tells the status; a run never fails for want of it."""
        self._told_at = time.monotonic()
        status = self.status()
        # A run that was fenced, or paused until now, must not write over its successor's note.
        if self.run and not self.later_run_tells():
            with suppress(RaypipeError):
                self._log.write_note(STATUS_NOTE, status.to_json())
        self._observer(status)

    def later_run_tells(self) -> bool:
        """Whether the log has the status of a run that came after this one."""
        with suppress(RaypipeError):
            text = self._log.notes(STATUS_NOTE).get(STATUS_NOTE)
            return text is not None and Status.from_json(text).run > self.run
        return False

    def status(self) -> Status:
        """What the run is doing now."""
        now = time.monotonic()
        reports = self._crew.readers()
        return Status(
            pipeline=self._pipeline,
            run=self.run,
            state=self.state,
            runner=self._runner,
            pid=os.getpid(),
            host=socket.gethostname(),
            at=time.time(),
            epochs=self.tally.epochs,
            rows=self.tally.rows,
            rows_per_s=self.tally.rows_per_s(now, self._began),
            executors=dict(self.tally.executors),
            stage_s=self.tally.stage_s(reports.values()),
            instances=tuple(instance_status(name, report) for name, report in reports.items()),
            sinks=tuple(self._sink_status(name) for name in self._crew.sinks()),
            state_shards=self._crew.state_shards(),
            stateful=tuple(self._crew.state_reports()),
            carrying_on=self.carrying_on,
            error=self.error,
        )

    def _sink_status(self, name: str) -> SinkStatus:
        progress = self._coordinator.sinks[name]
        return sink_status(name, progress, self.last_cut, lambda: self._lag_s(progress.cut))

    def _lag_s(self, held: Cut | None) -> float:
        with suppress(RaypipeError):
            for oldest in self._log.cuts(after=held.number if held is not None else 0, limit=1):
                return round(max(0.0, time.time() - oldest.at), 3)
        return 0.0
