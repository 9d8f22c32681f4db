"""``raypipe status``: where a pipeline stands, asked of its log, whether it runs or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from raypipe.cli.options import PIPELINE_FILE, File, Json
from raypipe.cli.terminal import aligned, counted, say, say_json
from raypipe.engine.status import STATUS_NOTE, Status
from raypipe.local.at_work import at_work

if TYPE_CHECKING:
    from raypipe.contracts import StateReport
    from raypipe.spec import Pipeline


def status(file: File = PIPELINE_FILE, json: Json = False) -> None:
    """Show where the pipeline stands: its run, its sources, the cut each sink holds, and what its steps remember."""
    from raypipe.spec import load

    pipeline = load(file)
    last = told(pipeline)
    alive = last is not None and at_work(last)
    if json:
        say_json({"ok": True, "pipeline": pipeline.pipeline, "alive": alive, "status": last and last.to_dict()})
    elif last is None:
        say(f"{pipeline.pipeline} has not run yet.")
    else:
        for line in _lines(last, alive):
            say(line)


def told(pipeline: Pipeline) -> Status | None:
    """What the pipeline's last run told of itself; None if it has not run yet."""
    from raypipe.log import log_exists, open_existing_log
    from raypipe.spec import resolve_url

    url = resolve_url(pipeline.log, pipeline.folder)
    if not log_exists(url, pipeline=pipeline.pipeline):
        return None
    log = open_existing_log(url, pipeline=pipeline.pipeline)
    try:
        text = log.notes(STATUS_NOTE).get(STATUS_NOTE)
    finally:
        log.close()
    return Status.from_json(text) if text is not None else None


def _lines(status: Status, alive: bool) -> list[str]:
    from raypipe.cli.progress import carrying_words, instance_words, sink_words

    ago_s = max(0.0, time.time() - status.at)
    state = status.state
    if not alive and state not in ("stopped", "failed"):
        state = f"gone without a word (it was {state}); run it again, nothing is lost"
    lines = [
        f"{status.pipeline}: run {status.run} is {state}",
        *aligned(
            [
                ("runner", f"{status.runner}, process {status.pid} on {status.host}"),
                ("told", f"{ago_s:,.1f} s ago"),
                ("carried", f"{counted(status.rows, 'row')} in {counted(status.epochs, 'epoch')}"),
                ("speed", f"{status.rows_per_s:,.0f} rows/s"),
            ]
        ),
        *aligned(("source", instance.name, instance_words(instance)) for instance in status.instances),
        *aligned(("sink", sink.name, sink_words(sink)) for sink in status.sinks),
        *([f"  {carrying_words(status.carrying_on)}"] if status.carrying_on is not None else []),
        *([f"  state in {counted(status.state_shards, 'shard')}"] if status.state_shards > 1 else []),
        *(line for report in status.stateful for line in _state_lines(report, alive)),
    ]
    return [*lines, f"  error: {status.error}"] if status.error else lines


def _state_lines(report: StateReport, alive: bool) -> list[str]:
    """What a state holds, and what of it is whose."""
    from raypipe.cli.progress import checkpoint_words, reshard_words, state_words

    owner = f"actor {report.actor}, process {report.pid}" if report.actor else f"process {report.pid}"
    return [
        f"  state  {state_words(report)}",
        f"    in {report.folder} on {report.host}" + (f", kept by {owner}" if alive else ""),
        *([f"    {checkpoint_words(report.checkpoints)}"] if report.checkpoints is not None else []),
        *([f"    {reshard_words(report.reshard)}"] if report.reshard is not None and alive else []),
        *aligned(state_parts(report), indent="    "),
    ]


def state_parts(report: StateReport) -> list[tuple[str, ...]]:
    """Cells of a line for each step that remembers something, and for each relation that is held for them."""
    from raypipe.cli.progress import sized

    parts = [("step", name, totals) for name, totals in report.steps.items()]
    parts += [("input", name, totals) for name, totals in report.inputs.items()]
    return [
        (what, name, counted(totals.traces, "trace"), counted(totals.rows, "row"), sized(totals.bytes))
        for what, name, totals in parts
    ]
