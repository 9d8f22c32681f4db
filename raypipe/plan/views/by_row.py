"""Which operators of a view look at single rows of an input and nothing else: anybody who has the rows can run them."""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.plan.views.model import Linear, Scan, ViewPlan


@dataclass(frozen=True, kw_only=True)
class ByRow:
    """Of one input.

    Attributes:
        operators: In their order, all that ``told`` needs.
        told: Relations they make that other operators, or renamings, read. A renaming costs less than passing it on.
        spared: Relations that nobody else has to make, those among them.
    """

    operators: tuple[Scan | Linear, ...] = ()
    told: tuple[str, ...] = ()
    spared: frozenset[str] = frozenset()


def by_row(plan: ViewPlan, relation: str) -> ByRow:
    """The operators of a view that need nothing but single rows of an input."""
    near: dict[str, Scan | Linear] = {}
    for operator in plan.operators:
        if isinstance(operator, Scan):
            if operator.relation == relation:
                near[operator.out.name] = operator
        elif isinstance(operator, Linear) and operator.input in near:
            near[operator.out.name] = operator
    needed = {plan.operators[-1].out.name}
    for operator in plan.operators:
        if operator.out.name not in near:
            needed.update(operator.inputs)
    told = []
    for name, operator in reversed(near.items()):
        if isinstance(operator, Linear) and name in needed:
            if operator.renames:
                needed.add(operator.input)
            else:
                told.append(name)
    made = set(told)
    for name, operator in reversed(near.items()):
        if name in made:
            made.update(operator.inputs)
    spared = {name for name in made if name in told or (isinstance(near[name], Linear) and name not in needed)}
    return ByRow(
        operators=tuple(operator for name, operator in near.items() if name in made),
        told=tuple(reversed(told)),
        spared=frozenset(spared),
    )
