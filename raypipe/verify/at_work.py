"""A run to talk to: the one that is at work, or one of our own for as long as it is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from raypipe.contracts import Log
from raypipe.engine.status import STATUS_NOTE, Status
from raypipe.errors import InvariantBroken, RaypipeError, Unavailable
from raypipe.local.at_work import at_work
from raypipe.local.run import run_local
from raypipe.plan.model import Plan

Observer = Callable[[str], None]


@contextmanager
def a_run(plan: Plan, log: Log, observer: Observer) -> Iterator[Callable[[], None]]:
    """A run to talk to, the one at work or one of our own; yields a check that it still lives."""
    status = read_status(log)
    if status is not None and at_work(status):
        observer(f"run {status.run} is at work; it goes on")
        yield lambda: _check_alive(log)
        return
    observer("nothing runs; catching up with the source first")
    stop = threading.Event()
    failure: list[RaypipeError] = []

    def run() -> None:
        try:
            run_local(plan, until="forever", stop=stop)
        except RaypipeError as error:
            failure.append(error)
        except Exception as error:
            failure.append(InvariantBroken("The run that was started for this failed.", cause=error))

    def check() -> None:
        if failure:
            raise failure[0]

    thread = threading.Thread(target=run, name="verify-run", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()


def read_status(log: Log) -> Status | None:
    """What the last run told of itself; None if there was none."""
    text = log.notes(STATUS_NOTE).get(STATUS_NOTE)
    return Status.from_json(text) if text is not None else None


def _check_alive(log: Log) -> None:
    status = None
    with suppress(RaypipeError):
        status = read_status(log)
    if status is not None and not at_work(status):
        raise Unavailable("The run ended meanwhile.", remedy="Do it again: a stopped pipeline works too.")
