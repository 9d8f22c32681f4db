"""The crew of a Ray run: an actor for each reader and each sink, and a consumer between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from actors.asking import ActorLost, answer, start
from actors.consumer import ConsumerActor
from actors.reader import ReaderActor
from actors.sink import SinkActor
from actors.state_crew import StateCrew
from actors.state_reports import StateReports
from raypipe.contracts import Carrying, EpochOutcome, Log, ReaderOrder, ReaderReport, Reload, StateReport
from raypipe.local.crew import all_ready, lowest_cut
from raypipe.local.demand import Demand, Footing
from raypipe.local.fitting import Fitting
from raypipe.model import Claim, Committed, Cut, SinkTable
from raypipe.plan.model import Plan, SinkPlan
from raypipe.sinks import open_sinks

# How long a look at a future may take while the conductor wants to tell its status.
LOOK_S = 0.2
# Actors get this long to end what they have in hand before they are killed.
CLOSE_S = 5.0


class RayCrew:
    """See ``contracts.Crew``. The actors die with the process that made this object.

    Args:
        plan: What to run.
        log: Of the conductor's thread; used to renew claims of readers that start again.
        token: Part of the actors' names, so that two runs on one cluster do not meet.
        node: Where the run was started, and where its state is.
    """

    def __init__(self, *, plan: Plan, log: Log, token: str, node: str) -> None:
        self._plan = plan
        self._log = log
        self._prefix = f"{plan.pipeline}/{token}"
        self._units: dict[str, tuple[SinkTable, ...]] = {}
        self._sink_plans: dict[str, SinkPlan] = {}
        for sink_plan in plan.sinks:
            for sink in open_sinks(sink_plan, plan.pipeline):
                self._units[sink.name] = sink.tables
                self._sink_plans[sink.name] = sink_plan
        self._generations: dict[str, int] = {}
        self._held: dict[str, Committed] = {}
        self._demand = Demand.of(plan)
        self._footing = Footing(self._demand)
        self._fitting = Fitting(log, self._footing, plan.epoch_bytes)
        self._reports = StateReports()
        self._readers: dict[str, _ReaderHandle] = {}
        self._claim: Claim | None = None
        self._resting = True
        self._starts = 0
        # All at once: a process takes a second to start, and they start side by side.
        self._sinks: dict[str, Any] = {name: self._start_sink(name) for name in self._units}
        self._consumer: Any = self._start_consumer()
        self._state = StateCrew(plan, log.identity, node, self._name) if self._demand else None
        self._shards = plan.state_shards if self._demand else 0

    def sinks(self) -> dict[str, tuple[SinkTable, ...]]:
        """Units of commit and their tables."""
        return self._units

    def open_sink(self, name: str, claim: Claim) -> Committed:
        """Opens a sink, in a new actor if the old one died."""
        if self._demand:
            self._stand_on(self._open_state(claim))
        self._generations[name] = claim.generation
        self._resting = False
        try:
            if name in self._sinks:
                return self._ask_to_open(name, claim)
        except ActorLost:
            self._kill(self._sinks.pop(name))
        self._sinks[name] = self._start_sink(name)
        return self._ask_to_open(name, claim)

    def _open_state(self, claim: Claim) -> str:
        """Opens the state, in new actors for those that died; returns its lineage."""
        assert self._state is not None
        with suppress(ActorLost):
            return self._state.open(claim.generation)
        return self._state.open(claim.generation)

    def _stand_on(self, lineage: str) -> None:
        planned = self._footing.stand_on(lineage)
        if planned is not None:
            plans = {plan.name: plan for plan in planned.sinks}
            self._sink_plans = {unit: plans[plan.name] for unit, plan in self._sink_plans.items()}

    def fits(self, carrying: Carrying) -> bool:
        """Whether the state fits what the sinks hold."""
        return self._state is None or self._fitting.fits(self._state, self._cuts(), self._carry_state, carrying)

    def _carry_state(self, after: Cut, upto: Cut, last: int) -> None:
        assert self._state is not None
        if self._consumer is None:
            self._consumer = self._start_consumer()
        try:
            answer(self._consumer.carry_state.remote(after, upto, last, self._state.all()), "The consumer")
        except ActorLost:
            self._kill(self._consumer)
            self._consumer = None
            raise

    def state_cut(self) -> int | None:
        """The lowest that a sink holds which is fed by a stateful step."""
        return lowest_cut(self._cuts())

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """Passes it on to the state."""
        if self._state is not None:
            self._state.checkpoint(version, keep)

    def state_shards(self) -> int:
        """How many the state has; 0 without stateful steps."""
        return self._shards

    def prepare(self, shards: int) -> bool:
        """Has the state cut for another number of shards, and starts their actors."""
        if self._state is None:
            return False
        at_hand = self._state.prepare(shards)
        return at_hand and all_ready(self.state_reports(), self._shards, shards)

    def reshard(self, shards: int, claim: Claim) -> None:
        """Ends the actors of the state that there are, and opens others on what they held."""
        assert self._state is not None
        self._stand_on(self._state.reshard(shards, claim.generation))
        self._shards = shards

    def keep(self, cuts: Collection[int]) -> None:
        """Passes it on to the state."""
        if self._state is not None:
            self._state.keep(cuts)

    def state_reports(self) -> tuple[StateReport, ...]:
        """What the state last said of itself."""
        return self._reports.look(self._state.handles if self._state is not None else [])

    def _cuts(self) -> list[Cut | None]:
        """Of the sinks that stateful steps feed."""
        return [held.cut for name, held in self._held.items() if self._demand.feeds(self._units[name])]

    def _start_sink(self, name: str) -> Any:
        return start(SinkActor, self._name(f"sink:{name}"), self._sink_plans[name], self._plan.pipeline, name)

    def _start_consumer(self) -> Any:
        return start(ConsumerActor, self._name("consumer"), self._plan, self._units)

    def _ask_to_open(self, name: str, claim: Claim) -> Committed:
        opening = self._sinks[name].open.remote(claim.generation, self._sink_plans[name])
        committed: Committed = answer(opening, f"Sink {name}")
        self._held[name] = committed
        return committed

    def start_readers(self, claim: Claim, reload: Collection[Reload]) -> None:
        """Starts an actor for each instance."""
        self._claim = claim
        for instance in self._plan.instances:
            its = tuple(each for each in reload if each.instance == instance.name)
            self._readers[instance.name] = _ReaderHandle(self._start_reader(instance.name, claim, its), its)

    def _start_reader(self, instance: str, claim: Claim, reload: Collection[Reload]) -> Any:
        return start(ReaderActor, self._name(f"reader:{instance}"), self._plan, instance, claim, reload)

    def readers(self) -> dict[str, ReaderReport]:
        """Newest reports; a reader that died is started again with a new claim."""
        for instance, handle in self._readers.items():
            try:
                handle.look()
            except ActorLost as lost:
                assert self._claim is not None
                self._kill(handle.actor)
                self._claim = self._log.renew(self._claim)
                fresh = _ReaderHandle(self._start_reader(instance, self._claim, handle.reload), handle.reload)
                fresh.report = replace(handle.report, state="retrying", settled=False, error=str(lost))
                fresh.order(handle.ordered)
                self._readers[instance] = fresh
        return {instance: handle.report for instance, handle in self._readers.items()}

    def order(self, instance: str, order: ReaderOrder) -> None:
        """Passes an order on, if it is a new one."""
        self._readers[instance].order(order)

    def carry(
        self, sinks: Collection[str], after: Cut | None, upto: Cut, keep_going: Callable[[], bool]
    ) -> EpochOutcome:
        """Has the consumer carry an epoch."""
        self._resting = False
        if self._consumer is None:
            self._consumer = self._start_consumer()
        actors = {name: self._sinks[name] for name in sinks}
        generations = {name: self._generations[name] for name in sinks}
        needs = self._demand.needs([(self._held[name], self._units[name]) for name in sinks], self._cuts())
        state = self._state.all() if self._state is not None else []
        reference = self._consumer.carry.remote(actors, generations, after, upto, state, needs)
        try:
            while not ray.wait([reference], timeout=LOOK_S)[0]:
                if not keep_going():
                    self._consumer.interrupt.remote()
                    break
            outcome: EpochOutcome = answer(reference, "The consumer")
        except ActorLost:
            self._kill(self._consumer)
            self._consumer = None
            raise
        self._held.update(outcome.committed)
        return outcome

    def rest(self) -> None:
        """Lets go of locks; called often, acts once after work."""
        if not self._resting:
            self._resting = True
            for name, actor in self._sinks.items():
                with suppress(ActorLost):
                    answer(actor.rest.remote(), f"Sink {name}")

    def close(self) -> None:
        """Lets every actor end what it has in hand, then ends it."""
        states = self._state.handles if self._state is not None else []
        self._reports.settle(states, CLOSE_S)
        ending = [handle.actor.stop.remote() for handle in self._readers.values()]
        ending += [actor.close.remote() for actor in self._sinks.values()]
        ending += [actor.close.remote() for actor in states]
        if ending:
            with suppress(RayError):
                ray.wait(ending, num_returns=len(ending), timeout=CLOSE_S)
        actors = [handle.actor for handle in self._readers.values()] + list(self._sinks.values())
        actors += [*states, *([self._consumer] if self._consumer is not None else [])]
        actors += self._state.waiting if self._state is not None else []
        for actor in actors:
            self._kill(actor)
        self._sinks.clear()
        self._consumer = self._state = None
        self._readers = {name: handle.ended() for name, handle in self._readers.items()}

    def _name(self, role: str) -> str:
        self._starts += 1
        return f"{self._prefix}/{role}#{self._starts}"

    @staticmethod
    def _kill(actor: Any) -> None:
        with suppress(RayError):
            ray.kill(actor)


class _ReaderHandle:
    """A reader actor and what is known of it; asks for the next report only when the last has come."""

    # Reports are asked for this often, and ever less often while they say the same; the conductor itself looks far more
    # often. A call costs both processes half a millisecond.
    EVERY_S = 0.02
    QUIET_EVERY_S = 0.16

    def __init__(self, actor: Any, reload: Collection[Reload]) -> None:
        self.actor = actor
        self.reload = tuple(reload)
        self.report = ReaderReport()
        self.ordered = ReaderOrder()
        self._asked: Any = None
        self._asked_at = 0.0
        self._every_s = self.EVERY_S
        self._alive = True

    def look(self) -> None:
        """Takes a report if one has come.

        Raises:
            ActorLost: the actor died.
        """
        if not self._alive:
            return
        now = time.monotonic()
        if self._asked is None:
            if now - self._asked_at >= self._every_s:
                self._asked, self._asked_at = self.actor.report.remote(), now
            return
        if ray.wait([self._asked], timeout=0)[0]:
            asked, self._asked = self._asked, None
            before, self.report = self.report, answer(asked, "A reader")
            self._every_s = min(2 * self._every_s, self.QUIET_EVERY_S) if self.report == before else self.EVERY_S
            self.reload = self.report.reload

    def order(self, order: ReaderOrder) -> None:
        """Sends an order unless it was the last one sent."""
        if order != self.ordered and self._alive:
            self.ordered = order
            self._every_s = self.EVERY_S
            self.actor.order.remote(order)

    def ended(self) -> _ReaderHandle:
        """Keeps the last report, asks no more."""
        self._alive = False
        return self
