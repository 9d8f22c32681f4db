"""The operators of a stateful step in words: what each does, what it must remember, what a change costs it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from raypipe.plan.views import Algebraic, Bilinear, Clock, Keyed, Linear, Operator, Scan, Union, ViewPlan, traces_of


def operators(step: ViewPlan, steps: Sequence[ViewPlan], held: Collection[str]) -> list[dict[str, str]]:
    """One row for each operator: ``name``, ``what``, ``keeps``, ``costs``, and ``shared`` if other steps have it too.

    Args:
        step: Whose operators they are.
        steps: All stateful steps of the plan.
        held: Traces that are not kept, because what is held of a table anyway is the same.
    """
    short = {operator.out.name: f"#{place}" for place, operator in enumerate(step.operators)}
    return [
        {
            "name": short[operator.out.name],
            "what": _what(operator, short),
            "keeps": _keeps_both(operator, step, held, short) if isinstance(operator, Bilinear) else _keeps(operator),
            "costs": _costs(operator),
            "shared": _shared(operator, step, [other for other in steps if other.name != step.name], short),
        }
        for operator in step.operators
    ]


def _what(operator: Operator, short: dict[str, str]) -> str:
    inputs = ", ".join(short[name] for name in operator.inputs)
    match operator:
        case Scan():
            return f"changes of {operator.relation}"
        case Clock():
            return "the time of the cut"
        case Union():
            return f"all rows of {inputs}"
        case Linear():
            return f"columns of {inputs}" if operator.renames else f"expressions and conditions over {inputs}"
        case Bilinear(between=True):
            rows, bound = inputs.split(", ")
            return f"rows of {rows} by their place before or after {bound}, by slices of time"
        case Bilinear():
            return f"inner join of {inputs}" + (f" by {_columns(operator.left_key)}" if operator.left_key else "")
        case Algebraic():
            return f"group over {inputs}" + (f" by {_columns(operator.key)}" if operator.key else "")
        case Keyed():
            key = next((read.key for read in operator.reads if read.key), None)
            return f"{operator.what} over {inputs}" + (f" by {_columns(key)}" if key else "")


def _keeps(operator: Operator) -> str:
    match operator:
        case Clock():
            return "keeps the time"
        case Algebraic():
            return "keeps its input and its sums" if operator.extremes else "keeps its sums"
        case Keyed():
            return "keeps its input and its result"
    return ""


def _keeps_both(operator: Bilinear, step: ViewPlan, held: Collection[str], short: dict[str, str]) -> str:
    """A side that is looked up by its table's key is not kept a second time."""
    own = [short[relation] for relation, key in operator.traces if step.trace_name(relation, key) not in held]
    tables = [short[relation] for relation, key in operator.traces if step.trace_name(relation, key) in held]
    if not tables:
        return "keeps both sides"
    return ", ".join([f"keeps {each}" for each in own] + [f"finds {each} in its table" for each in tables])


def _costs(operator: Operator) -> str:
    match operator:
        case Bilinear(between=True):
            return "costs the changes, and the rows that the time or the watermark passes"
        case Bilinear():
            return "costs the changes and their matches" if operator.left_key else "costs the changes times all rows"
        case Algebraic():
            return "costs the changes" + (", and the rows of a group that loses its extreme" * operator.extremes)
        case Keyed(constant=True):
            return "computed again from all rows at every change"
        case Keyed():
            if any(read.key is None for read in operator.reads):
                return "costs the rows of the changed keys; all rows when what it compares with changes"
            return "costs the rows of the changed keys"
    return ""


def _shared(operator: Operator, step: ViewPlan, others: Sequence[ViewPlan], short: dict[str, str]) -> str:
    """With which steps an operator or what it keeps is shared; empty for what keeps nothing."""
    kept = traces_of(operator)
    if not kept:
        return ""
    identity = step.identities[operator.out.name]
    alike = [other.name for other in others if identity in other.identities.values()]
    parts = [f"runs once with {', '.join(alike)}"] if alike else []
    for relation, key in kept:
        name = step.trace_name(relation, key)
        found = [other.name for other in others if any(trace.name == name for trace in other.traces)]
        more = [each for each in found if each not in alike]
        if more:
            by = f" by {_columns(key)}" if key else ""
            parts.append(f"rows of {short[relation]}{by} kept once with {', '.join(more)}")
    return "; ".join(parts)


def _columns(key: tuple[str, ...]) -> str:
    return ", ".join(key)
