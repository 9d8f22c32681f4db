"""The demo's fire drill: a sink's actor is killed half way, must come back, and every sink must drain before the end.

Driven by the run's statuses alone, about two a second; holds no thread and no process of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from enum import Enum
from threading import Event

from raypipe.engine.status import SinkStatus, Status


class Stage(Enum):
    """How far the drill has come."""

    LOADING = "loading"  # some sink holds nothing yet
    BUSY = "busy"  # everything flows
    KILLED = "killed"  # an actor is dead; its successor has not committed yet
    RECOVERED = "recovered"  # it has
    DRAINING = "draining"  # the writers are gone; what they wrote is on its way
    DONE = "done"
    LATE = "late"  # given up


class Drill:
    """Watches a run, and interferes once.

    Args:
        sink: Whose actor to kill, a unit of commit.
        busy_s: How long the writers write once everything flows; the kill comes half way.
        patience_s: From the first status to the end, at most.
        process_of: Tells the process id of a sink's present actor; None if there is none.
        close_shop: Stops the writers.
        stop: Set when the run shall end.
        tell: Says what happens, in words.
        clock: Seconds, monotonic.
        kill: Kills a process for good.
    """

    def __init__(
        self,
        *,
        sink: str,
        busy_s: float,
        patience_s: float,
        process_of: Callable[[str], int | None],
        close_shop: Callable[[], None],
        stop: Event,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        kill: Callable[[int], None] = lambda pid: os.kill(pid, signal.SIGKILL),
    ) -> None:
        self.stage = Stage.LOADING
        self._sink = sink
        self._busy_s = busy_s
        self._patience_s = patience_s
        self._process_of = process_of
        self._close_shop = close_shop
        self._stop = stop
        self._tell = tell
        self._clock = clock
        self._kill = kill
        self._began = clock()
        self._since = self._began  # when everything began to flow
        self._killed = 0  # process id
        self._killed_at = 0.0
        # Wall clock, to be compared with what statuses say of their own time.
        self._successor_at: float | None = None
        self._closed_at = 0.0
        self._cut_found: int | None = None  # by the successor
        self.recovered_s: float | None = None

    def __call__(self, status: Status) -> None:
        """Takes the next step if its time has come."""
        now = self._clock()
        if self.stage not in (Stage.DONE, Stage.LATE) and now - self._began > self._patience_s:
            self._tell(f"Not done after {self._patience_s:.0f} s (still {self.stage.value}); giving up.")
            self._end(Stage.LATE)
        elif self.stage is Stage.LOADING and _flows(status):
            self.stage, self._since = Stage.BUSY, now
            self._tell("The first rows are in every sink; from now on only changes flow.")
        elif self.stage is Stage.BUSY and now - self._since >= self._busy_s / 2:
            self._strike(status, now)
        elif self.stage is Stage.KILLED:
            self._look_for_recovery(status, now)
        elif self.stage is Stage.RECOVERED and now - self._since >= self._busy_s:
            self._close_shop()
            self._closed_at = time.time()
            self.stage = Stage.DRAINING
        elif self.stage is Stage.DRAINING and status.at > self._closed_at and _drained(status):
            self._tell("Every sink has everything the writers committed; the run ends.")
            self._end(Stage.DONE)

    def _strike(self, status: Status, now: float) -> None:
        process = self._process_of(self._sink)
        if process is None:
            return  # between two actors; at the next status
        self._kill(process)
        self._killed, self._killed_at, self.stage = process, now, Stage.KILLED
        cut = _progress(status, self._sink).cut
        self._tell(
            f"Killed the actor of sink {self._sink} (kill -9 {process}) at cut {cut}; the others go on, "
            "and it must come back by itself."
        )

    def _look_for_recovery(self, status: Status, now: float) -> None:
        sink = _progress(status, self._sink)
        successor = self._process_of(self._sink)
        if successor in (None, self._killed):
            return
        # A commit that was under way when the blow fell moves the cut too, and a status may be older than the blow:
        # only a commit that comes after what the successor found is proof.
        if self._successor_at is None:
            self._successor_at = time.time()
            return
        if sink.state != "ready" or sink.cut is None or status.at <= self._successor_at:
            return
        if self._cut_found is None:
            self._cut_found = sink.cut
        elif sink.cut > self._cut_found:
            self.stage, self.recovered_s = Stage.RECOVERED, now - self._killed_at
            self._tell(
                f"Sink {self._sink} is back after {self.recovered_s:.1f} s, in process {successor}: it asked its store "
                f"which cut that holds, and went on from there; now cut {sink.cut}."
            )

    def _end(self, stage: Stage) -> None:
        self.stage = stage
        self._stop.set()


def _flows(status: Status) -> bool:
    loaded = all(instance.state == "streaming" and not instance.loading for instance in status.instances)
    return bool(status.instances) and loaded and all(sink.cut is not None for sink in status.sinks)


def _drained(status: Status) -> bool:
    return all(not instance.pending for instance in status.instances) and all(
        sink.state == "ready" and not sink.lag_rows for sink in status.sinks
    )


def _progress(status: Status, sink: str) -> SinkStatus:
    return next((each for each in status.sinks if each.name == sink), SinkStatus(name=sink))
