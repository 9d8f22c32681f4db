"""In which order steps come, so that each follows what it reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing

from raypipe.plan.references import Reference, resolve
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.text import StepText
from raypipe.plan.tree import parse


def order_steps(steps: Mapping[str, str], sources: Collection[str]) -> tuple[str, ...]:
    """Names of the steps, inputs first, otherwise in the order given.

    Args:
        steps: SQL by name.
        sources: Source tables, as users write them: ``shop.orders``.

    Raises:
        SqlError: SQL that cannot be read; a step that reads itself; a cycle.
        SchemaMismatch: a table that is no source table and no step.
    """
    with closing(Sandbox()) as sandbox:
        texts = {name: StepText(name, sql) for name, sql in steps.items()}
        inputs = {name: resolve(text, parse(sandbox, text), [*sources, *steps]) for name, text in texts.items()}
    ordered: list[str] = []
    for name in steps:
        _visit(name, inputs, steps, ordered, ())
    return tuple(ordered)


def _visit(
    name: str,
    inputs: Mapping[str, list[Reference]],
    steps: Mapping[str, str],
    ordered: list[str],
    above: tuple[str, ...],
) -> None:
    if name in ordered:
        return
    for reference in inputs[name]:
        if reference.relation not in steps:
            continue
        text = StepText(name, steps[name])
        if reference.relation == name:
            raise text.problem(
                "{step} reads itself{where}; a step reads source tables and other steps.", reference.offset
            )
        if reference.relation in above:
            ring = [*above[above.index(reference.relation) :], name, reference.relation]
            raise text.problem(
                f"{{step}} closes a cycle{{where}}: {' reads '.join(ring)}; a step must not depend on itself.",
                reference.offset,
            )
        _visit(reference.relation, inputs, steps, ordered, (*above, name))
    ordered.append(name)
