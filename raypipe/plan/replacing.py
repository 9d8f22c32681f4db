"""Whether rows of a table can be replaced one by one by their keys, all the way down to every sink."""

from __future__ import annotations

from raypipe.errors import Kind, RaypipeError
from raypipe.plan.model import Plan


def require_replaceable(plan: Plan, table: str) -> None:
    """Checks that everything made of a table can be told by key what goes.

    Args:
        plan: Of the pipeline.
        table: ``instance.table``.

    Raises:
        RaypipeError: of kind PIPELINE_FILE: the table, or a step that reads it, has no key.
    """
    topic = plan.topic(table)
    schemas = {str(schema.table): schema for instance in plan.instances for schema in instance.tables}
    if not schemas[table].key:
        raise RaypipeError(
            f"{table} has no key by which single rows of it could be replaced.",
            kind=Kind.PIPELINE_FILE,
            remedy=f"Load it as a whole: raypipe snapshot start --table {table}",
            table=table,
        )
    for step in plan.steps:
        if not step.schema.key and topic in plan.topics_of(step.name):
            raise RaypipeError(
                f"Step {step.name} reads {table} and has no key, so single rows of it cannot be replaced.",
                kind=Kind.PIPELINE_FILE,
                remedy=f"Select the key columns unchanged, or load the whole table: raypipe snapshot start --table"
                f" {table}",
                table=table,
                step=step.name,
            )
