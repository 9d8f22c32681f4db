"""The consumer actor: reads the log, runs the steps and feeds the sink actors, one epoch at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from actors.data_executor import RayDataExecutor
from actors.remote_state import RemoteState
from actors.sink import RemoteSink, commit_together
from raypipe.contracts import EpochOutcome
from raypipe.local.carry import carry
from raypipe.local.crew import topics_of, topics_to_relations
from raypipe.local.demand import Demand
from raypipe.local.inline import Executor, InlineExecutor
from raypipe.local.stateful import StatefulExecutor, carry_state
from raypipe.log import open_existing_log
from raypipe.model import Cut, SinkTable
from raypipe.plan.model import Plan
from raypipe.steps import Flow, Needs

# From this many bytes on, starting a Ray Data execution (0.1 to 2 s) costs less than its parallelism gains.
RAY_DATA_BYTES = 128 << 20


@ray.remote(num_cpus=0, max_restarts=0, max_concurrency=2)
class ConsumerActor:
    """Carries epochs; holds nothing that a fresh one could not read from the log.

    Args:
        plan: What runs.
        units: Units of commit and their tables.
    """

    def __init__(self, plan: Plan, units: Mapping[str, tuple[SinkTable, ...]]) -> None:
        self._plan = plan
        self._units = units
        self._relations = topics_to_relations(plan, units.values())
        self._demand = Demand.of(plan)
        self._streamed = tuple(
            sorted(self._demand.streamed({table.relation for tables in units.values() for table in tables}))
        )
        self._threshold = float(plan.limits.get("ray_data_bytes", RAY_DATA_BYTES))
        self._stopping = threading.Event()
        self._local = threading.local()  # log and steps belong to the thread that carries

    def carry(
        self,
        sinks: Mapping[str, Any],
        generations: Mapping[str, int],
        after: Cut | None,
        upto: Cut,
        state: Sequence[Any],
        needs: Needs,
    ) -> EpochOutcome:
        """Carries sinks from ``after`` to ``upto``.

        Args:
            sinks: Actor handles by name.
            generations: Of each.
            after: See ``Epoch``.
            upto: See ``Epoch``.
            state: Handles of the state actors; none without stateful steps.
            needs: What the sinks need of it.
        """
        executor = self._executor(upto.bytes - (after.bytes if after is not None else 0))
        if needs.wanted:
            wanted = frozenset(table.relation for name in sinks for table in self._units[name])
            executor = StatefulExecutor(executor, RemoteState(state).begin, self._demand.inputs, wanted, needs)
        return carry(
            executor=executor,
            sinks={name: RemoteSink(actor, name, self._units[name]) for name, actor in sinks.items()},
            generations=generations,
            after=after,
            upto=upto,
            keep_going=lambda: not self._stopping.is_set(),
            commit=commit_together,
        )

    def carry_state(self, after: Cut, upto: Cut, last: int, state: Sequence[Any]) -> None:
        """Carries the state alone; see ``local.stateful.carry_state``."""
        topics = topics_of(self._plan, self._demand.inputs)
        executor = self._executor(upto.bytes - after.bytes, topics)
        carry_state(executor, RemoteState(state).begin, self._demand.inputs, after, upto, last)

    def interrupt(self) -> None:
        """The run is ending: throw the epoch in hand away."""
        self._stopping.set()

    def _executor(self, size_bytes: int, relations: Mapping[str, str] | None = None) -> Executor:
        relations = self._relations if relations is None else relations
        if not hasattr(self._local, "log"):
            self._local.log = open_existing_log(self._plan.log, pipeline=self._plan.pipeline)
            self._local.flow = Flow(self._plan, self._streamed)
        if size_bytes >= self._threshold:
            return RayDataExecutor(self._plan, self._local.log, relations, self._streamed)
        return InlineExecutor(self._local.log, self._local.flow, relations)
