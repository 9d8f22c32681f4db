"""A shard of the state is cut for another number of shards beside its work, as far ahead of the switch as may be."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from raypipe import faults
from raypipe.contracts import ReshardReport
from raypipe.errors import RaypipeError
from raypipe.state import Cuttings, Store

logger = logging.getLogger(__name__)

# What comes within the time of cutting so much takes far less than an epoch to cut.
_LITTLE_BYTES = 4 << 20
# A state that is written as fast as it is cut is switched all the same, with a longer pause.
_MOST_ROUNDS = 8
# Between rounds that found little, until the switch.
_EVERY_S = 0.5
# Of the thread, where the system lets a thread have a priority of its own (Linux): others go first.
_NICENESS = 5


class _Stopped(Exception):
    """In the middle of a round."""


class Preparing:
    """Of one shard, until ``stop``, in a thread of its own; meanwhile the store merges no runs beside its work.

    Args:
        store: Of the shard; ends later than this.
        folder: For what is cut.
        shards: How many there shall be.
    """

    def __init__(self, store: Store, folder: Path, shards: int) -> None:
        self.folder = folder
        self._store = store
        self._cuttings = Cuttings(folder, shards)
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of what is told
        self._told = ReshardReport(shards=shards)
        store.rest_merges()
        self._thread = threading.Thread(target=self._work, name="raypipe-reshard", daemon=True)
        self._thread.start()

    def report(self) -> ReshardReport:
        """How far it is."""
        with self._lock:
            return self._told

    def stop(self) -> None:
        """Ends the thread, within the time that a piece takes; what is cut stays."""
        self._stopping.set()
        self._thread.join()
        self._store.resume_merges()

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            self._rounds()
        except _Stopped:
            return
        except RaypipeError as error:
            logger.warning("state is not cut for other shards", extra={"error": str(error)})
            self._tell(trouble=str(error))
        except Exception as error:
            logger.exception("state is not cut for other shards")
            self._tell(trouble=type(error).__name__)

    def _rounds(self) -> None:
        rounds = 0
        while True:
            self._tell(left_bytes=self._cuttings.left(self._store))
            cut = self._cuttings.cut(self._store, self._passed)
            rounds += 1
            ready = self.report().ready or cut <= _LITTLE_BYTES or rounds >= _MOST_ROUNDS
            self._tell(left_bytes=0, ready=ready)
            if faults.armed("mutant.reshard_forgets"):
                self._stopping.wait()
            if ready and self._stopping.wait(_EVERY_S):
                return

    def _passed(self, size: int) -> None:
        if self._stopping.is_set():
            raise _Stopped
        told = self.report()
        self._tell(cut_bytes=told.cut_bytes + size, left_bytes=max(0, told.left_bytes - size))

    def _tell(self, **changed: object) -> None:
        with self._lock:
            self._told = replace(self._told, **changed)  # type: ignore[arg-type]
