"""The crew of a local run: a thread for each reader; steps and sinks in the conductor's own thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from raypipe import faults
from raypipe.contracts import Carrying, EpochOutcome, Log, ReaderOrder, ReaderReport, Reload, Sink, Source, StateReport
from raypipe.errors import RaypipeError
from raypipe.local.alone import StatefulAlone
from raypipe.local.carry import carry
from raypipe.local.demand import Demand, Footing
from raypipe.local.fitting import Fitting
from raypipe.local.inline import Executor, InlineExecutor, Steps
from raypipe.local.reader import Reader
from raypipe.local.stateful import StatefulExecutor, carry_state
from raypipe.local.threads import StatefulShards
from raypipe.model import Claim, Committed, Cut, SinkTable
from raypipe.plan.model import Plan

State = StatefulAlone | StatefulShards
OpenState = Callable[[int], State]


class LocalCrew:
    """See ``contracts.Crew``.

    Args:
        plan: What to run.
        log: Of the conductor's thread.
        steps: To run on every batch.
        open_sinks: Makes the sinks of a plan, not open.
        demand: What the sinks want of stateful steps.
        open_state: Makes those in so many shards, not open; None if nobody wants any.
        open_log: Makes a log object for a reader's thread.
        open_source: Makes the source of an instance.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        log: Log,
        steps: Steps,
        open_sinks: Callable[[Plan], Iterable[Sink]],
        demand: Demand,
        open_state: OpenState | None,
        open_log: Callable[[], Log],
        open_source: Callable[[str], Source],
    ) -> None:
        self._plan = plan
        self._log = log
        self._steps = steps
        self._demand = demand
        self._open_state = open_state
        self._shards = plan.state_shards if open_state is not None else 0
        self._stateful = open_state(self._shards) if open_state is not None else None
        self._next: tuple[int, State] | None = None  # what ``prepare`` asks for, made beforehand, and its number
        self._open_sinks = open_sinks
        self._sinks = {sink.name: sink for sink in open_sinks(plan)}
        self._footing = Footing(demand)
        self._fitting = Fitting(log, self._footing, plan.epoch_bytes)
        self._held: dict[str, Committed] = {}
        self._generations: dict[str, int] = {}
        self._open_log = open_log
        self._open_source = open_source
        self._readers: dict[str, Reader] = {}
        self._resting = True
        self._relations = topics_to_relations(plan, self.sinks().values())

    def sinks(self) -> dict[str, tuple[SinkTable, ...]]:
        """Units of commit and their tables."""
        return {name: sink.tables for name, sink in self._sinks.items()}

    def open_sink(self, name: str, claim: Claim) -> Committed:
        """Opens a sink, or again."""
        if self._stateful is not None:
            self._stand_on(self._stateful.open(claim.generation))
        with suppress(RaypipeError):
            self._sinks[name].abort()
        self._generations[name] = claim.generation
        self._resting = False
        self._held[name] = self._sinks[name].open(claim.generation)
        return self._held[name]

    def _stand_on(self, lineage: str) -> None:
        planned = self._footing.stand_on(lineage)
        if planned is not None:
            for sink in self._sinks.values():
                with suppress(RaypipeError):
                    sink.close()
            self._sinks = {sink.name: sink for sink in self._open_sinks(planned)}

    def fits(self, carrying: Carrying) -> bool:
        """Whether the state fits what the sinks hold."""
        state = self._stateful
        return state is None or self._fitting.fits(state, self._cuts(), partial(self._carry_state, state), carrying)

    def _carry_state(self, state: State, after: Cut, upto: Cut, last: int) -> None:
        topics = topics_of(self._plan, self._demand.inputs)
        inner = InlineExecutor(self._log, self._steps, topics)
        carry_state(inner, state.begin, self._demand.inputs, after, upto, last)

    def _cuts(self) -> list[Cut | None]:
        """Of the sinks that stateful steps feed."""
        return [held.cut for name, held in self._held.items() if self._demand.feeds(self._sinks[name].tables)]

    def state_cut(self) -> int | None:
        """The lowest that a sink holds which is fed by a stateful step."""
        return lowest_cut(self._cuts())

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """Passes it on to the state."""
        if self._stateful is not None:
            self._stateful.checkpoint(version, keep)

    def state_shards(self) -> int:
        """How many the state has; 0 without stateful steps."""
        return self._shards

    def prepare(self, shards: int) -> bool:
        """Has the state cut for another number of shards, and makes those."""
        if self._stateful is None:
            return False
        self._stateful.prepare(shards)
        if shards == self._shards:
            self._dismiss()
            return False
        self._at_hand(shards)
        return all_ready(self._stateful.reports(), self._shards, shards)

    def reshard(self, shards: int, claim: Claim) -> None:
        """Ends the shards that there are, and opens others on what they held."""
        assert self._stateful is not None
        former, before = self._stateful, self._shards
        former.let_go()
        faults.point("reshard.left")
        self._stateful = self._at_hand(shards)
        self._shards, self._next = shards, None
        try:
            self._stand_on(self._stateful.open(claim.generation))
        except RaypipeError:
            self._stateful.leave()
            self._stateful, self._shards = former, before
            raise
        former.leave()

    def _at_hand(self, shards: int) -> State:
        """So many shards, made beforehand if they were asked for."""
        assert self._open_state is not None
        if self._next is None or self._next[0] != shards:
            self._dismiss()
            self._next = shards, self._open_state(shards)
        return self._next[1]

    def _dismiss(self) -> None:
        if self._next is not None:
            self._next[1].leave()
            self._next = None

    def keep(self, cuts: Collection[int]) -> None:
        """Passes it on to the state."""
        if self._stateful is not None:
            self._stateful.keep(cuts)

    def state_reports(self) -> tuple[StateReport, ...]:
        """What the state says of itself."""
        return self._stateful.reports() if self._stateful is not None else ()

    def start_readers(self, claim: Claim, reload: Collection[Reload]) -> None:
        """Starts one thread for each instance."""
        for instance in self._plan.instances:
            self._readers[instance.name] = Reader(
                open_source=partial(self._open_source, instance.name),
                open_log=self._open_log,
                prefix=self._plan.pipeline,
                claim=claim,
                reload=[each for each in reload if each.instance == instance.name],
                poll_bytes=int(self._plan.limits.get("poll_bytes", 16 << 20)),
                log_bytes=int(self._plan.limits.get("log_bytes", 4 << 30)),
                clock_s=self._plan.clock_s,
            )
            self._readers[instance.name].start()

    def readers(self) -> dict[str, ReaderReport]:
        """Newest reports."""
        return {name: reader.report() for name, reader in self._readers.items()}

    def order(self, instance: str, order: ReaderOrder) -> None:
        """Passes an order on."""
        self._readers[instance].order(order)

    def carry(
        self, sinks: Collection[str], after: Cut | None, upto: Cut, keep_going: Callable[[], bool]
    ) -> EpochOutcome:
        """Carries an epoch in the calling thread."""
        self._resting = False
        executor: Executor = InlineExecutor(self._log, self._steps, self._relations)
        needs = self._demand.needs([(self._held[name], self._sinks[name].tables) for name in sinks], self._cuts())
        if self._stateful is not None and needs.wanted:
            wanted = frozenset(table.relation for name in sinks for table in self._sinks[name].tables)
            executor = StatefulExecutor(executor, self._stateful.begin, self._demand.inputs, wanted, needs)
        outcome = carry(
            executor=executor,
            sinks={name: self._sinks[name] for name in sinks},
            generations=self._generations,
            after=after,
            upto=upto,
            keep_going=keep_going,
        )
        self._held.update(outcome.committed)
        return outcome

    def rest(self) -> None:
        """Lets go of locks; called often, acts once after work."""
        if not self._resting:
            self._resting = True
            for sink in self._sinks.values():
                sink.rest()

    def close(self) -> None:
        """Ends readers and sinks."""
        for reader in self._readers.values():
            reader.stop()
        for sink in self._sinks.values():
            with suppress(RaypipeError):
                sink.close()

    def close_state(self) -> None:
        """Ends stateful steps and their state, of which nothing can be told afterwards."""
        self._dismiss()
        if self._stateful is not None:
            self._stateful.close()


def all_ready(reports: Sequence[StateReport], shards: int, wanted: int) -> bool:
    """Whether all shards say that little is left to be cut for a number of them that is wanted."""
    told = [report.reshard for report in reports if report.reshard is not None and report.reshard.shards == wanted]
    return len(told) == shards and all(each.ready for each in told)


def topics_to_relations(plan: Plan, units: Iterable[tuple[SinkTable, ...]]) -> Mapping[str, str]:
    """Topics that feed some sink table, each with the relation (``instance.table``) it carries."""
    return topics_of(plan, {table.relation for tables in units for table in tables})


def topics_of(plan: Plan, relations: Iterable[str]) -> Mapping[str, str]:
    """Topics that feed some of these relations, each with the relation (``instance.table``) it carries."""
    topics = {topic for relation in relations for topic in plan.topics_of(relation)}
    return {
        schema.table.topic(plan.pipeline): str(schema.table)
        for instance in plan.instances
        for schema in instance.tables
        if schema.table.topic(plan.pipeline) in topics
    }


def lowest_cut(cuts: Iterable[Cut | None]) -> int | None:
    """Number of the lowest of the cuts that sinks hold; None if one of them holds none, or there is none."""
    return min((cut.number if cut is not None else 0 for cut in cuts), default=0) or None
