"""The demo's fire drill: actors are killed one after another, must come back, and every sink must drain before the end.

Driven by the run's statuses alone, about two a second; holds no thread and no process of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from threading import Event

from raypipe.engine.status import SinkStatus, Status


class Stage(Enum):
    """How far the drill has come."""

    LOADING = "loading"  # some sink holds nothing yet
    BUSY = "busy"  # everything flows
    KILLED = "killed"  # an actor is dead; its successor has not committed yet
    DRAINING = "draining"  # the writers are gone; what they wrote is on its way
    DONE = "done"
    LATE = "late"  # given up


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a status says of an actor.

    Attributes:
        cut: That it holds; None if it is not at work.
        process: That the status is about; None if it does not say.
        lineage: Of what it holds; if another one is found later, that was made anew.
    """

    cut: int | None
    process: int | None = None
    lineage: str = ""


@dataclass(frozen=True, kw_only=True)
class Victim:
    """An actor to kill.

    Attributes:
        role: Its role, in its name.
        name: In words.
        standing: Where it stands, according to a status.
        dead: What is true while it is dead.
        back: What its successor did.
    """

    role: str
    name: str
    standing: Callable[[Status], Standing]
    dead: str
    back: str


def of_sink(name: str) -> Victim:
    """The actor of a sink.

    Args:
        name: Of the unit of commit.
    """

    def standing(status: Status) -> Standing:
        sink = next((each for each in status.sinks if each.name == name), SinkStatus(name=name))
        return Standing(cut=sink.cut if sink.state == "ready" else None)

    return Victim(
        role=f"sink:{name}",
        name=f"sink {name}",
        standing=standing,
        dead="the others go on, and it must come back by itself",
        back="it asked its store which cut that holds, and went on from there",
    )


def of_state() -> Victim:
    """The actor that owns what stateful steps remember."""

    def standing(status: Status) -> Standing:
        cuts = [sink.cut for sink in status.sinks if sink.state == "ready" and sink.cut is not None]
        if not status.stateful or not cuts or len(cuts) < len(status.sinks):
            return Standing(cut=None)
        # A report may be some epochs old, and a state is as good as what sinks have been told of it.
        report = status.stateful[0]
        return Standing(cut=min(cuts), process=report.pid, lineage=report.lineage)

    return Victim(
        role="state",
        name="the state",
        standing=standing,
        dead="what the joins, aggregates and windows remember is on disk",
        back="it opened the same folder and went on from the cut that the sinks hold, nothing was loaded again",
    )


class Drill:
    """Watches a run, and interferes.

    Args:
        victims: Actors to kill, each once, in this order.
        busy_s: How long the writers write once everything flows; the kills are spread over it.
        patience_s: From the first status to the end, at most.
        process_of: Tells the process id of the present actor of a role; None if there is none.
        close_shop: Stops the writers.
        stop: Set when the run shall end.
        tell: Says what happens, in words.
        clock: Seconds, monotonic.
        kill: Kills a process for good.

    Attributes:
        stage: See ``Stage``.
        recovered_s: How long each victim that came back took, by role.
    """

    def __init__(
        self,
        *,
        victims: Sequence[Victim],
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
        self.recovered_s: dict[str, float] = {}
        self._victims = tuple(victims)
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
        self._blow: _Blow | None = None  # the last one, until its victim is back
        self._struck = 0
        self._closed_at = 0.0  # wall clock, to be compared with what statuses say of their own time

    @property
    def recovered(self) -> bool:
        """Whether every victim was killed and came back."""
        return len(self.recovered_s) == len(self._victims)

    def __call__(self, status: Status) -> None:
        """Takes the next step if its time has come."""
        now = self._clock()
        if self.stage not in (Stage.DONE, Stage.LATE) and now - self._began > self._patience_s:
            self._tell(f"Not done after {self._patience_s:.0f} s (still {self._where()}); giving up.")
            self._end(Stage.LATE)
        elif self.stage is Stage.LOADING and _flows(status):
            self.stage, self._since = Stage.BUSY, now
            self._tell("The first rows are in every sink; from now on only changes flow.")
        elif self.stage is Stage.BUSY and self._struck < len(self._victims):
            if now - self._since >= self._busy_s * (self._struck + 1) / (len(self._victims) + 1):
                self._strike(self._victims[self._struck], status, now)
        elif self.stage is Stage.KILLED:
            self._look_for_recovery(status, now)
        elif self.stage is Stage.BUSY and now - self._since >= self._busy_s:
            self._close_shop()
            self._closed_at = time.time()
            self.stage = Stage.DRAINING
        elif self.stage is Stage.DRAINING and status.at > self._closed_at and _drained(status):
            self._tell("Every sink has everything the writers committed; the run ends.")
            self._end(Stage.DONE)

    def _strike(self, victim: Victim, status: Status, now: float) -> None:
        process = self._process_of(victim.role)
        before = victim.standing(status)
        if process is None or before.cut is None:
            return  # between two actors; at the next status
        self._kill(process)
        self._struck += 1
        self.stage, self._blow = Stage.KILLED, _Blow(victim=victim, process=process, at=now, before=before)
        self._tell(f"Killed the actor of {victim.name} (kill -9 {process}) at cut {before.cut}; {victim.dead}.")

    def _look_for_recovery(self, status: Status, now: float) -> None:
        blow = self._blow
        assert blow is not None
        victim = blow.victim
        successor = self._process_of(victim.role)
        if successor in (None, blow.process):
            return
        # A commit that was under way when the blow fell moves the cut too, and a status may be older than the blow:
        # only a commit that comes after what the successor found is proof.
        if blow.successor_at is None:
            blow.successor_at = time.time()
            return
        found = victim.standing(status)
        if found.cut is None or found.process not in (None, successor) or status.at <= blow.successor_at:
            return
        if blow.cut_found is None:
            blow.cut_found = found.cut
        elif found.cut > blow.cut_found:
            self.stage, self._blow = Stage.BUSY, None
            took_s = now - blow.at
            if found.lineage != blow.before.lineage:
                self._tell(f"{victim.name.capitalize()} is back after {took_s:.1f} s, and had to begin anew.")
                return
            self.recovered_s[victim.role] = took_s
            self._tell(
                f"{victim.name.capitalize()} is back after {took_s:.1f} s, in process {successor}: {victim.back}; "
                f"now cut {found.cut}."
            )

    def _where(self) -> str:
        return f"waiting for {self._blow.victim.name}" if self._blow is not None else self.stage.value

    def _end(self, stage: Stage) -> None:
        self.stage = stage
        self._stop.set()


@dataclass(kw_only=True)
class _Blow:
    """An actor was killed, and what has been seen since.

    Attributes:
        victim: Who.
        process: Of it.
        at: When, monotonic.
        before: Where it stood.
        successor_at: When a successor was first seen, wall clock.
        cut_found: By the successor.
    """

    victim: Victim
    process: int
    at: float
    before: Standing
    successor_at: float | None = None
    cut_found: int | None = None


def _flows(status: Status) -> bool:
    loaded = all(instance.state == "streaming" and not instance.loading for instance in status.instances)
    return bool(status.instances) and loaded and all(sink.cut is not None for sink in status.sinks)


def _drained(status: Status) -> bool:
    return all(not instance.pending for instance in status.instances) and all(
        sink.state == "ready" and not sink.lag_rows for sink in status.sinks
    )
