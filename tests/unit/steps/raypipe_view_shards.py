"""A view whose state is in shards that run in threads, in step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from raypipe_memory_state import MemoryState

from raypipe.local.threads import Office
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views import ViewPlan
from raypipe.steps.views import View


class Sharded:
    """See ``raypipe_view_cases.Alone``."""

    def __init__(self, plan: ViewPlan, shards: int) -> None:
        self._office = Office(shards)
        self._states = [MemoryState(plan.traces) for _ in range(shards)]
        self._sandboxes = [Sandbox() for _ in range(shards)]
        self._views = [View(plan, sandbox) for sandbox in self._sandboxes]
        self._version: int | None = None

    def epoch(self, changes: Mapping[str, pa.Table], at: float) -> pa.Table:
        version = (self._version or 0) + 1

        def part(shard: int) -> pa.Table:
            work = self._states[shard].begin(self._version)
            # Which shard reads a row of an input must not matter.
            mine = {
                name: rows.take(np.arange(shard, rows.num_rows, len(self._states))) for name, rows in changes.items()
            }
            made = self._views[shard].run(
                mine, work, first=self._version is None, at=at, exchange=self._office.exchanges[shard]
            )
            work.commit(version)
            return made

        self._office.begin()
        first, *others = self._office.together(part)
        assert not any(rows.num_rows for rows in others)
        self._version = version
        return first

    def close(self) -> None:
        self._office.close()
        for each in [*self._sandboxes, *self._states]:
            each.close()
