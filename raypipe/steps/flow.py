"""All row-wise steps of a plan as one transform: changes of source tables in, changes of the wanted relations out."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from raypipe.errors import InvariantBroken
from raypipe.model import ChangeBatch
from raypipe.plan.model import Plan, StepPlan
from raypipe.plan.sandbox import Bounds, Sandbox
from raypipe.steps.sql import SqlStep


class Flow:
    """Runs batches of source tables through the steps below them. Used by one thread.

    Args:
        plan: Of the pipeline; its steps have inputs first. ``step_memory_bytes`` and ``step_seconds`` among its
            limits bound a single statement.
        wanted: Relations to yield: source tables (``shop.orders``) and row-wise steps that read no stateful one. Steps
            that none of them needs do not run.
    """

    def __init__(self, plan: Plan, wanted: Collection[str]) -> None:
        defaults = Bounds()
        bounds = Bounds(
            memory_bytes=int(plan.limits.get("step_memory_bytes", defaults.memory_bytes)),
            statement_s=float(plan.limits.get("step_seconds", defaults.statement_s)),
        )
        self._wanted = frozenset(wanted)
        self._sandbox = Sandbox(bounds)
        self._sources = {
            name: str(schema.table)
            for instance in plan.instances
            for schema in instance.tables
            for name in (str(schema.table), schema.table.topic(plan.pipeline))
        }
        self._steps: list[tuple[SqlStep, tuple[str, ...]]] = []
        needed = set(self._wanted)
        for step in reversed(plan.steps):
            if step.name in needed and isinstance(step, StepPlan):
                needed.update(step.inputs)
                self._steps.insert(0, (SqlStep(step, self._sandbox), step.inputs))

    def apply(self, relation: str, batch: ChangeBatch) -> Iterator[tuple[str, ChangeBatch]]:
        """Runs one batch of a source table; yields (relation, changes) for every wanted relation it changes.

        The source table itself comes first, then the steps in the plan's order; changes of one relation keep the
        order of the batch within each branch.

        Args:
            relation: The table, as users write it or by its topic.
            batch: Its changes.

        Raises:
            SqlError: a step's SQL failed on a row.
            SchemaMismatch: the table no longer has what a step needs.
        """
        if relation not in self._sources:
            raise InvariantBroken(f"No source table {relation} is in the plan.", relation=relation)
        table = self._sources[relation]
        if table in self._wanted:
            yield table, batch
        made: dict[str, list[ChangeBatch]] = {table: [batch]}
        for step, inputs in self._steps:
            made[step.name] = [
                output
                for source in inputs
                for changes in made.get(source, ())
                for output in step.apply(source, changes)
            ]
            if step.name in self._wanted:
                for output in made[step.name]:
                    yield step.name, output

    def close(self) -> None:
        """Ends the sandbox that the steps share; idempotent."""
        self._sandbox.close()
