"""Merges runs off the critical path, so that a probe meets few of them and rows that cancel each other out go."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from raypipe import faults
from raypipe.contracts import TraceSchema
from raypipe.errors import RaypipeError
from raypipe.state.limits import Limits
from raypipe.state.run import Run

# A merge of the largest block takes well under a second; whoever closes the store waits for the one at work.
_CLOSES_WITHIN_S = 60.0
# Written within a millisecond.
_FOLDED_BYTES = 1 << 20


class Merged(Protocol):
    """What is merged: the store."""

    def newest(self) -> Mapping[str, tuple[Run, ...]]:
        """The runs of the newest version, by trace."""
        ...

    def schema(self, trace: str) -> TraceSchema:
        """Of a trace."""
        ...

    def write_run(self, schema: TraceSchema, runs: Sequence[Run]) -> Run:
        """Merges runs into a new one."""
        ...

    def replace(self, trace: str, old: Sequence[Run], new: Run) -> None:
        """Lets the new one stand for the old."""
        ...


def choose(runs: Sequence[Run], limits: Limits) -> list[Run]:
    """Which runs to merge next, none if they are few enough.

    Runs of about one size are merged once there are ``tier`` of them, with all smaller ones; and all runs of a trace
    once the others together are as large as the largest: so a row is written about once for each size, and what is
    stored is at most twice what is there.
    """
    if len(runs) < 2:
        return []
    largest = max(runs, key=lambda run: run.rows)
    others = [run for run in runs if run is not largest]
    if len(runs) > limits.tier and sum(run.rows for run in others) >= largest.rows:
        return list(runs)
    sizes = {run: _size(run.rows, limits) for run in others}
    for size in sorted(set(sizes.values())):
        if sum(1 for other in others if sizes[other] == size) >= limits.tier:
            return [run for run in others if sizes[run] <= size]
    return []


def foldable(runs: Sequence[Run], limits: Limits) -> list[Run]:
    """Which runs a commit writes once more, together with its own: small ones, once a merge of them would be due.

    So small epochs make no files but their commits, and leave nothing to merge.
    """
    small = [run for run in runs if _size(run.rows, limits) == 0 and run.bytes <= _FOLDED_BYTES]
    return small if len(small) >= limits.tier - 1 else []


def _size(rows: int, limits: Limits) -> int:
    return 0 if rows <= limits.small_rows else 1 + int(math.log(rows / limits.small_rows, limits.tier))


class Upkeep:
    """One thread that lives from the first look until ``close``; one merge at a time, whoever does it."""

    def __init__(self, store: Merged, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._merging = threading.Lock()
        self._wake = threading.Condition()
        self._asked = False
        self._resting = False
        self._closing = False
        self._failed: RaypipeError | None = None
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Has the thread see whether there is something to merge; returns at once."""
        with self._wake:
            self._asked = True
            if self._thread is None and not (self._closing or self._resting) and self._due():
                self._thread = threading.Thread(target=self._work, name="raypipe-state-upkeep", daemon=True)
                self._thread.start()
            self._wake.notify()

    def rest(self) -> None:
        """From now on the thread merges nothing; one merge may be under way."""
        self._resting = True

    def resume(self) -> None:
        """The thread merges again."""
        self._resting = False
        self.look()

    def make_room(self) -> None:
        """Merges in the calling thread while some trace has too many runs.

        Raises:
            RaypipeError: this or an earlier merge failed.
        """
        self._raise_failed()
        while any(len(runs) >= self._limits.most_runs for runs in self._store.newest().values()):
            if not self._merge_one():
                return

    def settle(self) -> None:
        """Merges in the calling thread until nothing is due.

        Raises:
            RaypipeError: this or an earlier merge failed.
        """
        self._raise_failed()
        while self._merge_one():
            pass

    def close(self) -> None:
        """Ends the thread; idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(_CLOSES_WITHIN_S)

    def _due(self) -> bool:
        return any(choose(runs, self._limits) for runs in self._store.newest().values())

    def _merge_one(self) -> bool:
        with self._merging:
            for trace, runs in self._store.newest().items():
                chosen = choose(runs, self._limits)
                if not chosen and len(runs) >= self._limits.most_runs:
                    chosen = list(runs)
                if chosen:
                    new = self._store.write_run(self._store.schema(trace), chosen)
                    faults.point("state.merge.written")
                    self._store.replace(trace, chosen, new)
                    return True
        return False

    def _raise_failed(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._asked or self._closing)
                self._asked = False
            try:
                while not (self._closing or self._resting) and self._merge_one():
                    pass
            except RaypipeError as error:
                self._failed = error  # told to whoever commits next
            if self._closing:
                return
