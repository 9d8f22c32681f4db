"""When the state is checkpointed, and what of the log stays so that a checkpoint can be gone on from.

A checkpoint is of a cut that every sink fed from the state holds already, so a restored state is never ahead of one. To
carry it on to what the sinks hold takes the log from its cut on: that stays for the two newest checkpoints that all
shards have (one may turn out to be damaged), and for the one that is being made. An object store that is away must not
fill the log: past half of its bound it keeps nothing for checkpoints, and state that is lost then is loaded anew.
"""

from __future__ import annotations

import logging

from raypipe import faults
from raypipe.contracts import Crew, Log
from raypipe.model import Cut
from raypipe.plan.model import Plan

logger = logging.getLogger(__name__)

CHECKPOINT_S = 60.0
_LOG_BYTES = 4 << 30
_KEPT = 2


class Checkpointing:
    """Of one run. Time is the caller's, in seconds.

    Args:
        plan: What runs.
        log: Whose cuts are meant.
        crew: Makes the checkpoints.
    """

    def __init__(self, plan: Plan, log: Log, crew: Crew) -> None:
        self._log = log
        self._crew = crew
        self._shards = crew.state_shards()
        self._every_s = float(plan.limits.get("checkpoint_seconds", CHECKPOINT_S))
        self._most_bytes = int(plan.limits.get("log_bytes", _LOG_BYTES)) // 2
        self._began: int | None = None  # a version that some shard may still be uploading
        self._began_at = float("-inf")
        self._full = False

    def look(self, oldest: Cut, now: float) -> Cut | None:
        """Begins a checkpoint if it is time for one; returns what the log may be trimmed to, None for nothing.

        Args:
            oldest: Cut that the sinks have no need of anything before.
            now: The time.
        """
        state_cut = self._crew.state_cut()
        if state_cut is None:
            return oldest  # nothing stateful, or nothing of it in all sinks yet
        if self._crew.state_shards() != self._shards:
            # What the former shards began is of no use any more; the new ones have none of their own yet.
            self._shards, self._began, self._began_at = self._crew.state_shards(), None, float("-inf")
        reports = self._crew.state_reports()
        told = [report.checkpoints for report in reports if report.checkpoints is not None]
        if len(told) < self._shards or any(report.versions is None and not report.trouble for report in told):
            return oldest if self._log_is_full() else None
        whole = sorted(set.intersection(*(set(report.versions or ()) for report in told)))[-_KEPT:]
        if self._began is not None and all(report.tried == self._began for report in told):
            self._began = None
        making = any(report.making is not None for report in told)
        waited = now - self._began_at >= self._every_s
        if waited and not making and state_cut not in whole:
            self._began, self._began_at = state_cut, now
            self._crew.checkpoint(state_cut, whole[-1:])
        if any(report.versions is None for report in told):
            return oldest if self._log_is_full() else None  # the object store does not answer
        needed = {*whole, self._began, *(report.making for report in told)} - {None}
        if faults.armed("mutant.checkpoint_alone"):
            needed = set()
        known = [self._log.cut(number) for number in needed if number is not None]
        held = [cut for cut in known if cut is not None and cut.number < oldest.number]
        if not held or self._log_is_full():
            return oldest
        return min(held, key=lambda cut: cut.number)

    def _log_is_full(self) -> bool:
        full = self._log.size() > self._most_bytes
        if full and not self._full:
            logger.warning("the log is half full and keeps nothing for checkpoints of the state any more")
        self._full = full
        return full
