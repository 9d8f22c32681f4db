"""The verifier's side of a hold (see ``raypipe.engine.hold``)."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from raypipe.contracts import Log
from raypipe.engine.hold import ANSWER_NOTE, EXPIRES_S, REQUEST_NOTE, HoldAnswer, HoldRequest, Phase
from raypipe.errors import RaypipeError, Unavailable

LOOK_S = 0.01


class Hold:
    """Asks a run to make a position a cut and to rest its sinks there; a context manager that always releases.

    Args:
        open_log: Makes log objects; one is used by the thread that keeps the request alive.
        alive: Raises if the run we wait for has ended.
        timeout_s: For each answer.
    """

    def __init__(self, open_log: Callable[[], Log], alive: Callable[[], None], timeout_s: float) -> None:
        self._open_log = open_log
        self._log = open_log()
        self._alive = alive
        self._timeout_s = timeout_s
        self._request = HoldRequest(id=uuid.uuid4().hex, phase=Phase.HOLD)
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="verify-keeper", daemon=True)

    def __enter__(self) -> Hold:
        self._write()
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._keeper.join()
        with suppress(RaypipeError):
            self._log.write_note(REQUEST_NOTE, None)
        self._log.close()

    def held(self) -> None:
        """Waits until the readers stand still."""
        self._await(lambda answer: answer.held, "stop its readers")

    def cut(self, positions: Mapping[str, str]) -> None:
        """Asks for a cut at these positions; the readers run on behind it."""
        self._request = replace(self._request, phase=Phase.CUT, positions=dict(positions))
        self._write()

    def reached(self) -> None:
        """Waits until the readers have reached the positions; until then the views that tell them must stay open."""
        self._await(lambda answer: answer.cut is not None, "read its sources up to the cut")

    def ready(self) -> int:
        """Waits until every sink holds the cut; returns its number."""
        answer = self._await(lambda answer: answer.ready, "bring every sink to the cut")
        assert answer.cut is not None
        return answer.cut

    def _await(self, reached: Callable[[HoldAnswer], bool], what: str) -> HoldAnswer:
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            self._alive()
            text = self._log.notes(ANSWER_NOTE).get(ANSWER_NOTE)
            if text is not None:
                answer = HoldAnswer.from_json(text)
                if answer.id == self._request.id and reached(answer):
                    return answer
            self._done.wait(LOOK_S)
        raise Unavailable(
            f"The run did not {what} within {self._timeout_s:.0f} s.",
            remedy="See 'raypipe status' for what it waits for, then verify again.",
        )

    def _write(self) -> None:
        self._log.write_note(REQUEST_NOTE, replace(self._request, renewed_at=time.time()).to_json())

    def _keep(self) -> None:
        log = self._open_log()
        try:
            while not self._done.wait(EXPIRES_S / 4):
                with suppress(RaypipeError):
                    log.write_note(REQUEST_NOTE, replace(self._request, renewed_at=time.time()).to_json())
        finally:
            log.close()
