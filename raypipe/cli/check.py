"""``raypipe check``: the file, its connections and its plan, without side effects."""

from __future__ import annotations

from raypipe.cli.options import PIPELINE_FILE, File, Json
from raypipe.cli.terminal import complain, counted, say, say_json


def check(file: File = PIPELINE_FILE, json: Json = False) -> None:
    """Check the pipeline file, its connections and its plan; changes nothing anywhere."""
    from raypipe.local.assemble import assemble
    from raypipe.local.reach import unreachable
    from raypipe.spec import PipelineFileError, load

    pipeline = load(file)
    plan = assemble(pipeline)
    problems = unreachable(pipeline, plan)
    if problems:
        raise PipelineFileError(problems)
    if json:
        warnings = [warning.to_dict() for warning in pipeline.warnings]
        say_json({"ok": True, "pipeline": plan.pipeline, "problems": warnings})
        return
    for warning in pipeline.warnings:
        complain(str(warning))
    tables = sum(len(instance.tables) for instance in plan.instances)
    parts = (
        f"{counted(len(plan.instances), 'source')} with {counted(tables, 'table')}",
        counted(len(plan.steps), "step"),
        counted(len(plan.sinks), "sink"),
    )
    say(f"{file}: pipeline {plan.pipeline} is fine: {', '.join(parts)}.")
