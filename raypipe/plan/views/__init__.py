"""Stateful steps: a SELECT taken apart into operators, each of which keeps its own SQL up to date."""

from raypipe.plan.views.model import (
    WEIGHT,
    Algebraic,
    Bilinear,
    Clock,
    Keyed,
    KeyedInput,
    Linear,
    Operator,
    Relation,
    Scan,
    Union,
    ViewPlan,
    leaf_names,
    traces_of,
)

__all__ = [
    "WEIGHT",
    "Algebraic",
    "Bilinear",
    "Clock",
    "Keyed",
    "KeyedInput",
    "Linear",
    "Operator",
    "Relation",
    "Scan",
    "Union",
    "ViewPlan",
    "leaf_names",
    "traces_of",
]
