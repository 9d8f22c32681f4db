"""The run's side of a re-sharding (see ``raypipe.engine.reshard``): cutting beside the work, then a switch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from raypipe import faults
from raypipe.contracts import Crew, Log
from raypipe.engine.coordinator import Coordinator
from raypipe.engine.reshard import (
    RESHARD_ANSWER_NOTE,
    RESHARD_REQUEST_NOTE,
    Progress,
    ReshardAnswer,
    ReshardRequest,
)
from raypipe.errors import Fenced, RaypipeError, StateLost, Unavailable
from raypipe.model import Claim

logger = logging.getLogger(__name__)

# How often a run looks whether somebody asks, and tells how far it is.
_LOOK_S = 0.25


class Reshards:
    """Serves one request at a time; ``serve`` is called often by the conductor's thread, between epochs.

    Args:
        log: Where requests and answers are.
        crew: Whose state it is.
        coordinator: Knows the sinks.
        renewed: Gives a claim above all that were given out; raises ``Fenced`` if there is a later run.
        tell: Has the run tell its status.
    """

    def __init__(
        self, log: Log, crew: Crew, coordinator: Coordinator, renewed: Callable[[], Claim], tell: Callable[[], None]
    ) -> None:
        self._log = log
        self._crew = crew
        self._coordinator = coordinator
        self._renewed = renewed
        self._tell = tell
        self._looked_at = float("-inf")
        self._preparing = True  # an earlier run may have left something
        self._told: ReshardAnswer | None = None

    def serve(self, run: int, now: float) -> None:
        """Does the next bit of what is asked for.

        Args:
            run: Number of this one.
            now: Seconds of a clock that goes on.

        Raises:
            Fenced: there is a later run.
            StateLost: the state cannot be read any more.
        """
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        text = self._log.notes(RESHARD_REQUEST_NOTE).get(RESHARD_REQUEST_NOTE)
        request = ReshardRequest.from_json(text) if text is not None else None
        if request is not None and request.run < run:
            self._log.write_note(RESHARD_REQUEST_NOTE, None)
            request = None
        if request is None or request.run > run:
            self._give_up()
            return
        shards = self._crew.state_shards()
        if not shards:
            self._end(request, Progress.FAILED, error="No step of the pipeline remembers anything.")
        elif shards == request.shards:
            self._end(request, Progress.DONE)
        else:
            self._go_on(request)

    def _go_on(self, request: ReshardRequest) -> None:
        self._preparing = True
        ready = self._crew.prepare(request.shards)
        told = [report.reshard for report in self._crew.state_reports() if report.reshard is not None]
        trouble = next((each.trouble for each in told if each.trouble), "")
        if trouble:
            self._end(request, Progress.FAILED, error=trouble)
        elif ready:
            self._switch(request)
        else:
            self._say(
                ReshardAnswer(
                    id=request.id,
                    progress=Progress.CUTTING,
                    shards=self._crew.state_shards(),
                    cut_bytes=sum(each.cut_bytes for each in told),
                    left_bytes=sum(each.left_bytes for each in told),
                )
            )

    def _switch(self, request: ReshardRequest) -> None:
        began, before = time.monotonic(), self._crew.state_shards()
        claim = self._renewed()
        try:
            self._crew.reshard(request.shards, claim)
        except (Fenced, StateLost):
            raise
        except RaypipeError as error:
            logger.warning("state stays in its shards", extra={"error": str(error)})
            for sink in self._coordinator.sinks:
                self._coordinator.reopen(sink)  # which opens the state again
            self._end(request, Progress.FAILED, error=str(error))
            return
        faults.point("reshard.switched")
        pause_s = round(time.monotonic() - began, 3)
        logger.info(
            "state goes on in another number of shards",
            extra={"shards": request.shards, "before": before, "pause_s": pause_s},
        )
        self._preparing = False
        self._tell()  # who has the answer must not read of the shards before
        self._end(request, Progress.DONE, pause_s=pause_s)

    def _end(self, request: ReshardRequest, progress: Progress, *, pause_s: float = 0.0, error: str = "") -> None:
        answer = ReshardAnswer(
            id=request.id, progress=progress, shards=self._crew.state_shards(), pause_s=pause_s, error=error
        )
        # The answer first: without it, but with the request, the run finds that it has done what is asked.
        self._say(answer)
        self._log.write_note(RESHARD_REQUEST_NOTE, None)
        if progress is Progress.FAILED:
            self._give_up()

    def _give_up(self) -> None:
        if self._preparing:
            self._preparing = False
            with suppress(Unavailable):  # what cannot be removed now is removed by the next run
                self._crew.prepare(self._crew.state_shards())

    def _say(self, answer: ReshardAnswer) -> None:
        if answer != self._told:
            self._told = answer
            self._log.write_note(RESHARD_ANSWER_NOTE, answer.to_json())
