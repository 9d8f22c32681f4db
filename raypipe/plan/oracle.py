"""The oracle: SQL that computes a relation of the plan over the source tables themselves, for ``verify``."""

from __future__ import annotations

from raypipe.model import BRANCH
from raypipe.plan.model import BranchPlan, Plan, StepPlan
from raypipe.plan.rewrite import CHANGES, ROW
from raypipe.plan.scope import quote
from raypipe.plan.text import StepText
from raypipe.plan.views import ViewPlan

Steps = dict[str, StepPlan | ViewPlan]


def oracle_sql(plan: Plan, relation: str) -> str:
    """SQL for DuckDB that computes a relation.

    The rows are those of the users' own SQL. Where the relation has branches, a first column ``_raypipe_branch``
    numbers them; the number comes from the plan's SQL for each branch, so the query compares the rows it numbered with
    those of the user's SQL and fails if they differ.

    Args:
        plan: Of the pipeline.
        relation: A step, or a source table.

    Returns:
        SQL over tables that have the users' names (``shop.orders``), in a session whose ``TimeZone`` is UTC. Its
        columns are the relation's, by name. Where a step asks for the time it reads ``plan.views.clocks.CLOCK``, a
        table of one row, ``clock_row``.
    """
    steps = {step.name: step for step in plan.steps}
    if relation not in steps:
        instance, _, table = relation.partition(".")
        return f"SELECT * FROM {quote(instance)}.{quote(table)}"
    ctes = [cte for name in _below(steps, relation) for cte in _ctes(steps, steps[name])]
    return f"WITH {', '.join(ctes)} SELECT * FROM {quote(_numbered(steps[relation]))}"


def _below(steps: Steps, relation: str) -> list[str]:
    """The steps that a step depends on and itself, inputs first."""
    found: dict[str, None] = {}
    for source in steps[relation].inputs:
        if source in steps:
            found.update(dict.fromkeys(_below(steps, source)))
    return [*found, relation]


def _numbered(step: StepPlan | ViewPlan) -> str:
    return f"{step.name} with branches" if step.schema.branches > 1 else step.name


def _ctes(steps: Steps, step: StepPlan | ViewPlan) -> list[str]:
    names = ", ".join(quote(name) for name in step.schema.names)
    sql = step.oracle if isinstance(step, ViewPlan) else StepText(step.name, step.sql).bare()
    own = f"{quote(step.name)} AS (\n{sql}\n)"
    if isinstance(step, ViewPlan) or step.schema.branches == 1:
        return [own]
    unproved = quote(f"{step.name} unproved")
    numbered = " UNION ALL ".join(_branch(steps, step, branch) for branch in step.branches)
    differ = (
        f"EXISTS ((SELECT {names} FROM {unproved} EXCEPT ALL SELECT {names} FROM {quote(step.name)}) UNION ALL "
        f"(SELECT {names} FROM {quote(step.name)} EXCEPT ALL SELECT {names} FROM {unproved}))"
    )
    return [
        own,
        f"{unproved} AS MATERIALIZED ({numbered})",
        f"{quote(_numbered(step))} AS (SELECT * FROM {unproved} WHERE CASE WHEN {differ} "
        "THEN error('raypipe numbers other rows than the SQL makes') ELSE true END)",
    ]


def _branch(steps: Steps, step: StepPlan, branch: BranchPlan) -> str:
    """A branch over its whole input; what is carried through here is the input's own branch number."""
    source = steps.get(branch.relation)
    if source is None:
        instance, _, table = branch.relation.partition(".")
        relation, number = f"{quote(instance)}.{quote(table)}", "0"
    else:
        relation = quote(_numbered(source))
        number = BRANCH if source.schema.branches > 1 else "0"
    columns = "".join(f", {quote(name)}" for name in branch.columns)
    names = ", ".join(quote(name) for name in step.schema.names)
    return (
        f"SELECT CAST({ROW} + {branch.index} AS TINYINT) AS {BRANCH}, {names} FROM ("
        f"WITH {CHANGES} AS (SELECT CAST({number} AS BIGINT) AS {ROW}{columns} FROM {relation}) {branch.sql}"
        f") AS branch({ROW}, {names})"
    )
