"""The reader actor: one for each instance, from its change stream into the log."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import ray

from raypipe.contracts import ReaderOrder, ReaderReport, Reload
from raypipe.local.reader import Reader
from raypipe.log import open_existing_log
from raypipe.model import Claim
from raypipe.plan.model import Plan
from raypipe.sources import open_instance


@ray.remote(num_cpus=0, max_restarts=0)
class ReaderActor:
    """Hosts a ``Reader`` thread; started again by the crew, with a new claim, never by Ray."""

    def __init__(self, plan: Plan, instance: str, claim: Claim, reload: Collection[Reload]) -> None:
        self._reader = Reader(
            open_source=partial(open_instance, plan, instance),
            open_log=partial(open_existing_log, plan.log, pipeline=plan.pipeline),
            prefix=plan.pipeline,
            claim=claim,
            reload=reload,
            poll_bytes=int(plan.limits.get("poll_bytes", 16 << 20)),
            log_bytes=int(plan.limits.get("log_bytes", 4 << 30)),
            clock_s=plan.clock_s,
        )
        self._reader.start()

    def report(self) -> ReaderReport:
        """What the reader last said of itself."""
        return self._reader.report()

    def order(self, order: ReaderOrder) -> None:
        """Passes an order on."""
        self._reader.order(order)

    def stop(self) -> None:
        """Ends the thread after the log transaction in hand."""
        self._reader.stop()
