"""The sink actor, one for each unit of commit, and the stand-in for it in the consumer's process."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray

from actors.asking import answer
from raypipe.errors import RaypipeError
from raypipe.local.carry import Commits
from raypipe.model import ChangeBatch, Committed, Epoch, SinkTable
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks


@ray.remote(num_cpus=0, max_restarts=0)
class SinkActor:
    """Hosts one ``Sink``; started again by the crew, with a new generation, never by Ray."""

    def __init__(self, plan: SinkPlan, pipeline: str, unit: str) -> None:
        self._pipeline = pipeline
        self._unit = unit
        self._made_of(plan)

    def open(self, generation: int, plan: SinkPlan) -> Committed:
        """See ``Sink.open``.

        Args:
            generation: Likewise.
            plan: Of the sink, whose tables may have become views of another state.
        """
        with suppress(RaypipeError):
            self._sink.abort()
        if plan != self._plan:
            with suppress(RaypipeError):
                self._sink.close()
            self._made_of(plan)
        return self._sink.open(generation)

    def _made_of(self, plan: SinkPlan) -> None:
        self._plan = plan
        self._sink = next(sink for sink in open_sinks(plan, self._pipeline) if sink.name == self._unit)

    def begin(self, epoch: Epoch) -> None:
        """See ``Sink.begin``."""
        self._sink.begin(epoch)

    def write(self, table: str, batch: ChangeBatch) -> None:
        """See ``Sink.write``."""
        self._sink.write(table, batch)

    def commit(self) -> Committed:
        """See ``Sink.commit``."""
        return self._sink.commit()

    def abort(self) -> None:
        """See ``Sink.abort``."""
        self._sink.abort()

    def rest(self) -> None:
        """See ``Sink.rest``."""
        self._sink.rest()

    def close(self) -> None:
        """See ``Sink.close``."""
        self._sink.close()


class RemoteSink:
    """A sink actor as its consumer sees it: calls keep their order, a few writes are under way at a time.

    Args:
        actor: Handle.
        name: Of the unit.
        tables: Of the unit.
    """

    # Enough to keep a sink busy while the next batch is computed; bounded, so that a slow sink holds the steps up.
    UNDER_WAY = 4

    def __init__(self, actor: Any, name: str, tables: tuple[SinkTable, ...]) -> None:
        self.name = name
        self.tables = tables
        self._actor = actor
        self._writes: deque[Any] = deque()
        self._commit: Any = None

    def begin(self, epoch: Epoch) -> None:
        """Starts an epoch; an error shows at the next write or at commit."""
        self._writes.clear()
        self._commit = None
        self._writes.append(self._actor.begin.remote(epoch))

    def write(self, table: str, batch: ChangeBatch) -> None:
        """Hands changes over."""
        while len(self._writes) >= self.UNDER_WAY:
            answer(self._writes.popleft(), f"Sink {self.name}")
        self._writes.append(self._actor.write.remote(table, batch))

    def start_commit(self) -> None:
        """Waits until everything is accepted, then sends the commit without waiting for its answer."""
        while self._writes:
            answer(self._writes.popleft(), f"Sink {self.name}")
        self._commit = self._actor.commit.remote()

    def commit(self) -> Committed:
        """Waits for the answer to the commit."""
        if self._commit is None:
            self.start_commit()
        committed: Committed = answer(self._commit, f"Sink {self.name}")
        return committed

    def abort(self) -> None:
        """Drops the epoch; not waited for."""
        self._writes.clear()
        self._actor.abort.remote()


def commit_together(sinks: Mapping[str, RemoteSink]) -> Commits:
    """Commits all sinks at the same time."""
    committed: dict[str, Committed] = {}
    failed: dict[str, RaypipeError] = {}
    for name, sink in sinks.items():
        try:
            sink.start_commit()
        except RaypipeError as error:
            failed[name] = error
    for name, sink in sinks.items():
        if name not in failed:
            try:
                committed[name] = sink.commit()
            except RaypipeError as error:
                failed[name] = error
    return committed, failed
