"""From SQL to a plan: what steps mean, in which order they run, and the oracle that proves them."""

from raypipe.plan.compile import compile_step
from raypipe.plan.model import BranchPlan, InstancePlan, Plan, SinkPlan, StepPlan
from raypipe.plan.oracle import oracle_sql
from raypipe.plan.order import order_steps

__all__ = [
    "BranchPlan",
    "InstancePlan",
    "Plan",
    "SinkPlan",
    "StepPlan",
    "compile_step",
    "oracle_sql",
    "order_steps",
]
