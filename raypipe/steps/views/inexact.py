"""Which relations a sink cannot go on from once they were computed a second time, because floats may differ then.

A sum of floating point numbers depends on the order of adding, in its last bits. Most rows are found by their key all
the same. But not all: a row has another place if its partition is made of such a sum, another key if a later group is,
and is there or not if a condition is.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from raypipe.model import TableSchema
from raypipe.plan.model import Plan, StepPlan
from raypipe.plan.views import Algebraic, Bilinear, Keyed, Linear, Operator, Scan, ViewPlan


def found_by_floats(plan: Plan) -> frozenset[str]:
    """Steps whose rows a sink may not find again, or find where there are none any more."""
    summed: set[str] = set()  # hold floats that were added up, or what was made of them
    decided: set[str] = set()  # and whose rows depend on them
    for step in plan.steps:
        below = summed.intersection(step.inputs)
        if isinstance(step, ViewPlan):
            holds, decides = _of_view(step.operators, below)
        else:
            holds, decides = bool(below), _of_row_wise(step, below)
        if holds:
            summed.add(step.name)
        if decides or decided.intersection(step.inputs):
            decided.add(step.name)
    placed = {
        table.relation
        for sink in plan.sinks
        for table in sink.tables
        if table.relation in summed and not set(table.partition_by) <= set(table.schema.key)
    }
    bare = {step.name for step in plan.steps if _by_floats(step.schema)}
    return frozenset(decided | placed | bare)


def _of_view(operators: Iterable[Operator], below: set[str]) -> tuple[bool, bool]:
    """Whether the last operator holds what was made of sums of floats, and whether rows depend on some."""
    summed: set[str] = set()
    decides = holds = False
    for operator in operators:
        holds = any(name in summed for name in operator.inputs)
        holds = holds or (isinstance(operator, Scan) and operator.relation in below)
        if holds:
            condition = isinstance(operator, Linear) and not operator.renames and " WHERE " in operator.sql
            decides = decides or condition or isinstance(operator, Keyed | Algebraic | Bilinear)
        # What is added to and what joins are exact: a float there was one in a row.
        holds = holds or (isinstance(operator, Keyed) and _has_floats(operator.out.columns))
        if holds:
            summed.add(operator.out.name)
    return holds, decides


def _of_row_wise(step: StepPlan, below: set[str]) -> bool:
    return any(branch.relation in below and " WHERE " in branch.sql for branch in step.branches)


def _by_floats(schema: TableSchema) -> bool:
    """Whether a sink finds a row by floating point numbers: in its key, or anywhere if it has none."""
    return _has_floats(column.type for column in schema.columns if not schema.key or column.name in schema.key)


def _has_floats(columns: Iterable[pa.DataType | pa.Field]) -> bool:
    return any(_holds_floats(each.type if isinstance(each, pa.Field) else each) for each in columns)


def _holds_floats(type_: pa.DataType) -> bool:
    inner = [type_.field(place).type for place in range(type_.num_fields)]
    return pa.types.is_floating(type_) or any(map(_holds_floats, inner))
