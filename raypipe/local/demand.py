"""What a run's sinks want of stateful steps: which relations come from them, and what an epoch has to tell of those."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

from raypipe.errors import StateLost
from raypipe.model import Committed, Cut, SinkTable
from raypipe.plan.model import Plan
from raypipe.steps import Needs, stateful_inputs, stateful_relations


class Demand:
    """Of one run; decides and touches nothing.

    Args:
        plan: What runs.
        wanted: Relations that sinks are fed from.

    Attributes:
        relations: Those of them that come from stateful steps.
        inputs: What stateful steps read of the log, or of row-wise steps above them.
    """

    def __init__(self, plan: Plan, wanted: Collection[str]) -> None:
        self._plan = plan
        self._below = stateful_relations(plan)
        self.relations = frozenset(wanted) & self._below
        self.inputs = stateful_inputs(plan, self.relations)

    @classmethod
    def of(cls, plan: Plan) -> Demand:
        """Of all the sinks of a plan."""
        return cls(plan, {table.relation for sink in plan.sinks for table in sink.tables})

    def __bool__(self) -> bool:
        """Whether a sink is fed by a stateful step at all."""
        return bool(self.relations)

    def streamed(self, wanted: Collection[str]) -> set[str]:
        """What must be made of the log batch by batch: what sinks want, and what stateful steps read."""
        return (set(wanted) - self._below) | self.inputs

    def feeds(self, tables: Iterable[SinkTable]) -> bool:
        """Whether some of these tables come from stateful steps."""
        return any(table.relation in self._below for table in tables)

    def needs(self, held: Sequence[tuple[Committed, Sequence[SinkTable]]], cuts: Sequence[Cut | None]) -> Needs:
        """What an epoch has to tell.

        Args:
            held: What each sink of the epoch holds, and its tables.
            cuts: Of all sinks that are fed by stateful steps.
        """
        ours = [(committed, table) for committed, tables in held for table in tables if table.relation in self._below]
        awaited = frozenset(
            table.relation
            for committed, table in ours
            if table.name not in committed.tables or committed.tables[table.name].awaiting
        )
        behind = min((_number(committed.cut) for committed, _ in held), default=0)
        return Needs(
            wanted=frozenset(table.relation for _, table in ours),
            awaited=awaited,
            lowest=behind <= min(map(_number, cuts), default=0),
        )

    def planned(self, lineage: str) -> Plan:
        """The plan, in which tables fed by stateful steps are also views of a state: without it they are stale."""
        sinks = tuple(
            replace(sink, tables=tuple(self._of_state(table, lineage) for table in sink.tables))
            for sink in self._plan.sinks
        )
        return replace(self._plan, sinks=sinks)

    def _of_state(self, table: SinkTable, lineage: str) -> SinkTable:
        if table.relation not in self._below:
            return table
        return replace(table, view=sha256(f"{table.view} {lineage}".encode()).hexdigest()[:32])


class Footing:
    """Of which state the sinks' tables are views, in one run.

    Args:
        demand: Says which tables those are.
    """

    def __init__(self, demand: Demand) -> None:
        self._demand = demand
        self._lineage: str | None = None

    def stand_on(self, lineage: str) -> Plan | None:
        """The plan whose tables are views of this state; None if they are already.

        Raises:
            StateLost: they are views of another one, and the run is at work.
        """
        if lineage == self._lineage:
            return None
        if self._lineage is not None:
            raise StateLost(
                "The state of the stateful steps was lost while the run was at work.",
                remedy="Run again: what depends on it is loaded anew.",
            )
        self._lineage = lineage
        return self._demand.planned(lineage)

    def is_on(self, lineage: str) -> bool:
        """Whether the tables are views of this state."""
        return lineage == self._lineage

    def leave(self) -> None:
        """The state was emptied: the next one is the tables'."""
        self._lineage = None


def _number(cut: Cut | None) -> int:
    return cut.number if cut is not None else 0
