"""A view whose state is in shards that run in threads, in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from raypipe_memory_state import MemoryState

from raypipe.local.shards import Shards
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views import ViewPlan
from raypipe.steps.views import View

IN_STEP_S = 60.0


class Office:
    """Where the threads of some shards swap parcels. A shard that fails lets the others fail too."""

    def __init__(self, shards: int) -> None:
        self._barrier = threading.Barrier(shards, timeout=IN_STEP_S)
        self._parcels: list[Sequence[Any]] = [()] * shards
        self._threads = [ThreadPoolExecutor(1) for _ in range(shards)]
        self.exchanges = [Shards(shard, shards, _Counter(self, shard)) for shard in range(shards)]

    def swap(self, shard: int, parcels: Sequence[Any]) -> list[Any]:
        self._parcels[shard] = parcels
        self._barrier.wait()
        mine = [each[shard] for each in self._parcels]
        self._barrier.wait()
        return mine

    def together(self, work: Callable[[int], Any]) -> list[Any]:
        """Has each shard do its part, in its own thread."""
        self._barrier.reset()
        parts = [thread.submit(self._part, work, shard) for shard, thread in enumerate(self._threads)]
        failures = [error for each in parts if (error := each.exception()) is not None]
        if failures:
            raise next(
                (error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0]
            )
        return [each.result() for each in parts]

    def _part(self, work: Callable[[int], Any], shard: int) -> Any:
        try:
            return work(shard)
        except BaseException:
            self._barrier.abort()
            raise

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown()


class _Counter:
    """See ``Post``."""

    def __init__(self, office: Office, shard: int) -> None:
        self._office = office
        self._shard = shard

    def swap(self, parcels: Sequence[Any]) -> list[Any]:
        return self._office.swap(self._shard, parcels)


class Sharded:
    """See ``raypipe_view_cases.Alone``."""

    def __init__(self, plan: ViewPlan, shards: int) -> None:
        self._office = Office(shards)
        self._states = [MemoryState(plan.traces) for _ in range(shards)]
        self._sandboxes = [Sandbox() for _ in range(shards)]
        self._views = [View(plan, sandbox) for sandbox in self._sandboxes]
        self._version: int | None = None

    def epoch(self, changes: Mapping[str, pa.Table]) -> pa.Table:
        version = (self._version or 0) + 1

        def part(shard: int) -> pa.Table:
            work = self._states[shard].begin(self._version)
            # Which shard reads a row of an input must not matter.
            mine = {
                name: rows.take(np.arange(shard, rows.num_rows, len(self._states))) for name, rows in changes.items()
            }
            made = self._views[shard].run(
                mine, work, first=self._version is None, exchange=self._office.exchanges[shard]
            )
            work.commit(version)
            return made

        first, *others = self._office.together(part)
        assert not any(rows.num_rows for rows in others)
        self._version = version
        return first

    def close(self) -> None:
        self._office.close()
        for each in [*self._sandboxes, *self._states]:
            each.close()
