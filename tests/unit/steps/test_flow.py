"""All steps of a plan, from one batch of a source table to every relation that somebody wants."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from raypipe_change_rows import ORDERS, batch, change, told

from raypipe.errors import InvariantBroken, LimitExceeded
from raypipe.model import Op, TableName
from raypipe.plan import InstancePlan, Plan, compile_step, oracle_sql, order_steps
from raypipe.steps import Flow

OLD = replace(ORDERS, table=TableName("shop", "main", "old"))
STEPS = {
    "large": "SELECT id, amount FROM old_or_paid WHERE amount > 10",
    "old_or_paid": """
        SELECT id, amount FROM shop.orders WHERE status = 'paid' UNION ALL SELECT id, amount FROM shop.old""",
    "unused": "SELECT id, status::INT AS n FROM shop.orders",
}


def plan(**limits: float) -> Plan:
    schemas = {"shop.orders": ORDERS, "shop.old": OLD}
    steps = []
    for name in order_steps(STEPS, list(schemas)):
        steps.append(compile_step(name, STEPS[name], schemas, {}))
        schemas[name] = steps[-1].schema
    instance = InstancePlan(name="shop", url="", chosen=(), tables=(ORDERS, OLD))
    return Plan(pipeline="p", log="", instances=(instance,), steps=tuple(steps), sinks=(), limits=limits)


def flowed(wanted: Collection[str], relation: str, *changes: dict[str, Any]) -> list[tuple[str, Any]]:
    schema = OLD if "old" in relation else ORDERS
    with closing(Flow(plan(), wanted)) as flow:
        return [(name, told(made)) for name, made in flow.apply(relation, batch(*changes, schema=schema))]


INSERTS = (change(Op.INSERT, id=1, status="paid", amount=5), change(Op.INSERT, id=2, status="paid", amount=50))


def test_the_table_comes_first_then_the_steps_inputs_first() -> None:
    made = flowed(["large", "old_or_paid", "shop.orders"], "shop.orders", *INSERTS)
    assert made == [
        ("shop.orders", [("INSERT", 1, "paid", 5, None), ("INSERT", 2, "paid", 50, None)]),
        ("old_or_paid", [("INSERT", 0, 1, 5), ("INSERT", 0, 2, 50)]),
        ("large", [("INSERT", 0, 2, 50)]),
    ]


def test_only_what_is_wanted_comes_out_and_only_what_is_needed_runs() -> None:
    # The step "unused" would fail on this row.
    assert flowed(["large"], "shop.orders", *INSERTS) == [("large", [("INSERT", 0, 2, 50)])]


def test_a_table_is_known_by_its_topic_as_well() -> None:
    assert flowed(["large"], "p.shop.main.old", *INSERTS) == [("large", [("INSERT", 1, 2, 50)])]


def test_a_truncate_reaches_its_own_branch_all_the_way_down() -> None:
    made = flowed(["old_or_paid", "large"], "shop.old", change(Op.TRUNCATE))
    assert made == [("old_or_paid", [("TRUNCATE", 1, None, None)]), ("large", [("TRUNCATE", 1, None, None)])]


def test_a_relation_that_is_no_source_table_is_a_defect() -> None:
    with pytest.raises(InvariantBroken, match="No source table large"):
        flowed(["large"], "large", *INSERTS)


def test_the_plans_limits_bound_a_statement() -> None:
    many = [change(Op.INSERT, id=index, status="paid", amount=5) for index in range(10)]
    with (
        closing(Flow(plan(step_memory_bytes=16 << 20), ["large"])) as flow,
        pytest.raises(LimitExceeded, match="more than 16 MiB"),
    ):
        flow._sandbox.query("SELECT list(range) FROM range(10_000_000)")
    with closing(Flow(plan(step_seconds=30.0), ["old_or_paid"])) as flow:
        assert len(list(flow.apply("shop.orders", batch(*many)))) == 1


def test_the_oracle_runs_the_users_own_sql() -> None:
    step = next(step for step in plan().steps if step.name == "old_or_paid")
    assert step.sql in oracle_sql(plan(), "large")
    assert oracle_sql(plan(), "shop.orders") == 'SELECT * FROM "shop"."orders"'
