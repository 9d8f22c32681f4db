"""A run at work in a thread, and a person who asks it for another number of shards of its state."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread
from typing import TypeVar

from raypipe.engine.reshard import (
    RESHARD_ANSWER_NOTE,
    RESHARD_REQUEST_NOTE,
    Progress,
    ReshardAnswer,
    ReshardRequest,
)
from raypipe.engine.status import Status
from raypipe.log import open_log
from raypipe.plan.model import Plan

DEADLINE_S = 120.0
T = TypeVar("T")


class AtWork:
    """A run that goes on until the block ends.

    Args:
        plan: What runs.
        runner: That runs it.
    """

    def __init__(self, plan: Plan, runner: Callable[..., Status]) -> None:
        self.told: list[Status] = []
        self._plan = plan
        self._runner = runner
        self._failed: list[BaseException] = []
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> AtWork:
        self._thread.start()
        try:
            self.until(lambda status: status.state == "running", "the start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._runner(self._plan, until="forever", observer=self.told.append, stop=self._stop)
        except BaseException as error:
            self._failed.append(error)

    def until(self, holds: Callable[[Status], bool], what: str) -> Status:
        """The first status of which something holds."""

        def look() -> Status | None:
            assert not self._failed, self._failed
            return next((status for status in self.told[-1:] if holds(status)), None)

        return eventually(look, what)

    def carried(self, change: Callable[[], object]) -> None:
        """Waits until what changes now has been carried."""
        before = self.told[-1].epochs
        change()
        self.until(
            lambda status: status.epochs > before and not any(sink.lag_rows for sink in status.sinks), "an epoch"
        )

    def reshard(self, shards: int) -> ReshardAnswer:
        """Asks for so many and waits for the answer, good or bad."""
        return answered(self._plan, asked(self._plan, shards, self.told[-1].run))


def eventually(look: Callable[[], T | None], what: str) -> T:
    """What is found at last."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        Event().wait(0.02)
    raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}")


def asked(plan: Plan, shards: int, run: int) -> str:
    """Asks a run; returns the request's id."""
    request = ReshardRequest(id=uuid.uuid4().hex, run=run, shards=shards)
    with closing(open_log(plan.log, pipeline=plan.pipeline)) as log:
        log.write_note(RESHARD_REQUEST_NOTE, request.to_json())
    return request.id


def answered(plan: Plan, request: str) -> ReshardAnswer:
    """The last answer to a request."""
    with closing(open_log(plan.log, pipeline=plan.pipeline)) as log:

        def look() -> ReshardAnswer | None:
            text = log.notes(RESHARD_ANSWER_NOTE).get(RESHARD_ANSWER_NOTE)
            answer = ReshardAnswer.from_json(text) if text is not None else None
            ended = answer is not None and answer.id == request and answer.progress is not Progress.CUTTING
            return answer if ended else None

        return eventually(look, "the answer")
