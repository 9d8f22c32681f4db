"""``raypipe plan``: how each part of a pipeline will run, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypipe.cli.options import PIPELINE_FILE, File, Json
from raypipe.cli.terminal import aligned, complain, counted, say, say_json

if TYPE_CHECKING:
    from raypipe.model import TableSchema
    from raypipe.plan.model import Plan
    from raypipe.spec import Pipeline


def plan(file: File = PIPELINE_FILE, json: Json = False) -> None:
    """Show how each step will run and why, and what each sink will hold; changes nothing anywhere."""
    from raypipe.local.assemble import assemble
    from raypipe.spec import load

    pipeline = load(file)
    made = assemble(pipeline)
    if json:
        say_json(described(pipeline, made))
        return
    for warning in pipeline.warnings:
        complain(str(warning))
    for line in _lines(described(pipeline, made)):
        say(line)


def described(pipeline: Pipeline, plan: Plan) -> dict[str, Any]:
    """A plan as plain values, without secrets."""
    from raypipe.cli.operators import operators
    from raypipe.plan.views import ViewPlan

    stateful = [step for step in plan.steps if isinstance(step, ViewPlan)]
    held = _held(plan) if stateful else frozenset()
    return {
        "ok": True,
        "pipeline": plan.pipeline,
        "log": str(pipeline.log),
        "limits": dict(plan.limits),
        "sources": [
            {
                "name": instance.name,
                "url": str(pipeline.sources[instance.name].url),
                "cuts": _cuts(plan, instance.name),
                "tables": [
                    {"relation": str(schema.table), "topic": schema.table.topic(plan.pipeline), **_relation(schema)}
                    for schema in instance.tables
                ],
            }
            for instance in plan.instances
        ],
        "steps": [
            {
                "name": step.name,
                "runs": "stateful" if isinstance(step, ViewPlan) else "row-wise",
                "reason": step.reason,
                "reads": list(step.inputs),
                **({"operators": operators(step, stateful, held)} if isinstance(step, ViewPlan) else {}),
                **_relation(step.schema),
            }
            for step in plan.steps
        ],
        "sinks": [
            {
                "name": sink.name,
                "urls": [str(url) for url in pipeline.sinks[sink.name].locations],
                "tables": [
                    {
                        "name": table.name,
                        "from": table.relation,
                        "mode": table.mode.value,
                        "key": list(table.schema.key),
                        "partition_by": list(table.partition_by),
                    }
                    for table in sink.tables
                ],
            }
            for sink in plan.sinks
        ],
    }


def _held(plan: Plan) -> frozenset[str]:
    """Traces of operators that a run does not keep, since what it holds of a table anyway is the same."""
    from raypipe.steps import Views

    views = Views(plan, {table.relation for sink in plan.sinks for table in sink.tables})
    try:
        return views.held_by_inputs
    finally:
        views.close()


def _cuts(plan: Plan, source: str) -> str:
    """What a source promises of its cuts."""
    from raypipe.contracts import MayTear
    from raypipe.sources.factory import open_instance

    opened = open_instance(plan, source)
    torn = opened.tears() if isinstance(opened, MayTear) else None
    return torn or "no cut holds a part of a transaction"


def _relation(schema: TableSchema) -> dict[str, Any]:
    return {
        "key": list(schema.key),
        "branches": schema.branches,
        "columns": [{"name": column.name, "type": str(column.type)} for column in schema.columns],
    }


def _key(relation: dict[str, Any]) -> str:
    key = ", ".join(relation["key"])
    if relation.get("branches", 1) > 1:
        key = f"branch, {key}" if key else "branch"
    return f"key {key}" if key else "no key: a multiset of rows"


def _lines(plan: dict[str, Any]) -> list[str]:
    lines = [f"pipeline {plan['pipeline']}, log {plan['log']}"]
    for source in plan["sources"]:
        lines += ["", f"source {source['name']}: {source['url']}", f"  cuts: {source['cuts']}"]
        lines += aligned((t["relation"], counted(len(t["columns"]), "column"), _key(t)) for t in source["tables"])
    for step in plan["steps"]:
        lines += ["", f"step {step['name']}: {step['runs']}"]
        lines += aligned(
            [
                ("why", step["reason"]),
                ("reads", ", ".join(step["reads"])),
                ("makes", f"{', '.join(column['name'] for column in step['columns'])} ({_key(step)})"),
            ]
        )
        lines += aligned(
            (f"  {made['name']}", made["what"], made["keeps"], made["costs"], made["shared"])
            for made in step.get("operators", ())
        )
    for sink in plan["sinks"]:
        shards = f" and {len(sink['urls']) - 1} more, by hash of the key" if len(sink["urls"]) > 1 else ""
        lines += ["", f"sink {sink['name']}: {sink['urls'][0]}{shards}"]
        lines += aligned(
            (
                table["name"],
                f"from {table['from']}",
                table["mode"],
                f"partitioned by {', '.join(table['partition_by'])}" if table["partition_by"] else "",
            )
            for table in sink["tables"]
        )
    return lines
