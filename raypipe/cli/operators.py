"""The operators of a stateful step in words: what each does, what it must remember, what a change costs it."""

from __future__ import annotations

from raypipe.plan.views import Algebraic, Bilinear, Clock, Keyed, Linear, Operator, Scan, Union, ViewPlan


def operators(step: ViewPlan) -> list[dict[str, str]]:
    """One row for each operator: ``name``, ``what``, ``keeps``, ``costs``."""
    short = {operator.out.name: f"#{place}" for place, operator in enumerate(step.operators)}
    return [
        {
            "name": short[operator.out.name],
            "what": _what(operator, short),
            "keeps": _keeps(operator),
            "costs": _costs(operator),
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
        case Bilinear():
            return "keeps both sides"
        case Algebraic():
            return "keeps its input and its sums" if operator.extremes else "keeps its sums"
        case Keyed():
            return "keeps its input and its result"
    return ""


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


def _columns(key: tuple[str, ...]) -> str:
    return ", ".join(key)
