"""Which source tables must be loaded again before sinks that await them can fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raypipe.contracts import Reload
from raypipe.model import Committed, SinkTable
from raypipe.plan.model import Plan, StepPlan


def tables_to_reload(
    plan: Plan,
    units: Mapping[str, tuple[SinkTable, ...]],
    held: Mapping[str, Committed],
    load_begins: Callable[[str], int | None],
) -> tuple[Reload, ...]:
    """Source tables that a sink awaits and whose last load the log no longer holds for it.

    Args:
        plan: What runs.
        units: Tables of each unit of commit.
        held: What each unit holds.
        load_begins: As ``Log.load_begins``.
    """
    wanted: set[str] = set()
    for unit, tables in units.items():
        committed = held[unit]
        for table in tables:
            state = committed.tables.get(table.name)
            for branch in state.awaiting if state is not None else ():
                for topic in _topics_of_branch(plan, table.relation, branch):
                    begins = load_begins(topic)
                    passed = committed.cut.offsets.get(topic, 0) if committed.cut is not None else 0
                    if begins is None or begins < passed:
                        wanted.add(topic)
    return tuple(
        Reload(instance=instance.name, table=str(schema.table), topic=topic, begun=load_begins(topic))
        for instance in plan.instances
        for schema in instance.tables
        if (topic := schema.table.topic(plan.pipeline)) in wanted
    )


def _topics_of_branch(plan: Plan, relation: str, branch: int) -> tuple[str, ...]:
    for step in plan.steps:
        if step.name == relation and isinstance(step, StepPlan) and len(step.branches) == step.schema.branches:
            return plan.topics_of(step.branches[branch].relation)
    return plan.topics_of(relation)
