"""``raypipe reshard``: has a run at work go on in as many shards of its state as the pipeline file says now."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from raypipe.cli.options import PIPELINE_FILE, File, Json
from raypipe.cli.terminal import counted, say, say_json

if TYPE_CHECKING:
    from raypipe.contracts import Log
    from raypipe.engine.reshard import ReshardAnswer
    from raypipe.engine.status import Status
    from raypipe.spec import Pipeline

_LOOK_S = 0.1


def reshard(
    file: File = PIPELINE_FILE,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="To wait for the run without progress.")
    ] = 300.0,
    json: Json = False,
) -> None:
    """Share out anew what the steps of a pipeline at work remember, to as many shards as limits.state_shards says now.

    The run goes on meanwhile and loads nothing again; its sinks stand still only while the new shards take over. If no
    run is at work the next one does it when it starts. May be interrupted and run again.
    """
    from raypipe.cli.status import told
    from raypipe.cli.verify import silence, words
    from raypipe.local.at_work import at_work
    from raypipe.log import open_existing_log
    from raypipe.spec import load, resolve_url

    pipeline = load(file)
    wanted = pipeline.limits.state_shards
    last = told(pipeline)
    answer: ReshardAnswer | None = None
    if last is not None and at_work(last):
        log = open_existing_log(resolve_url(pipeline.log, pipeline.folder), pipeline=pipeline.pipeline)
        with closing(log), silence() if json else words() as observer:
            answer = _ask(log, last, wanted, observer, timeout)
    if json:
        say_json(
            {
                "ok": True,
                "pipeline": pipeline.pipeline,
                "shards": answer.shards if answer is not None else None,
                "wanted": wanted,
                "pause_s": answer.pause_s if answer is not None else None,
            }
        )
    else:
        say(_summary(pipeline, wanted, answer))


def _summary(pipeline: Pipeline, wanted: int, answer: ReshardAnswer | None) -> str:
    shards = counted(wanted, "shard")
    if answer is None:
        return f"{pipeline.pipeline}: no run is at work; the next one begins with its state in {shards}."
    if not answer.pause_s:
        return f"{pipeline.pipeline}: its state is in {shards} already."
    return f"{pipeline.pipeline}: its state is in {shards} now; the sinks stood still for {answer.pause_s:.2f} s."


def _ask(
    log: Log, status: Status | None, wanted: int, observer: Callable[[str], None], timeout_s: float
) -> ReshardAnswer | None:
    """What the run at work answers in the end; None if it ends before.

    Raises:
        Unavailable: it cannot do it, or says nothing new for too long.
    """
    from raypipe.engine.reshard import RESHARD_ANSWER_NOTE, RESHARD_REQUEST_NOTE, Progress, ReshardRequest
    from raypipe.engine.reshard import ReshardAnswer as Answer
    from raypipe.engine.status import STATUS_NOTE
    from raypipe.engine.status import Status as Told
    from raypipe.errors import Unavailable
    from raypipe.local.at_work import at_work

    asked: ReshardRequest | None = None
    heard: Answer | None = None
    deadline = time.monotonic() + timeout_s
    observer(f"asking for {counted(wanted, 'shard')}")
    while time.monotonic() < deadline:
        if status is None or not at_work(status):
            return None
        if asked is None or (status.run and status.run != asked.run):  # another run was started meanwhile
            asked = ReshardRequest(id=uuid.uuid4().hex, run=status.run, shards=wanted)
            log.write_note(RESHARD_REQUEST_NOTE, asked.to_json())
        text = log.notes(RESHARD_ANSWER_NOTE).get(RESHARD_ANSWER_NOTE)
        answer = Answer.from_json(text) if text is not None else None
        if answer is not None and answer.id == asked.id and answer != heard:
            heard, deadline = answer, time.monotonic() + timeout_s
            if answer.progress is Progress.DONE:
                return answer
            if answer.progress is Progress.FAILED:
                stays = f"The state stays in {counted(answer.shards, 'shard')}: " if answer.shards else ""
                raise Unavailable(
                    f"{stays}{answer.error}",
                    remedy="The run goes on as before. Mend it and ask again.",
                )
            observer(_cutting(answer))
        time.sleep(_LOOK_S)
        text = log.notes(STATUS_NOTE).get(STATUS_NOTE)
        status = Told.from_json(text) if text is not None else None
    raise Unavailable(
        f"The run has said nothing new of its shards for {timeout_s:.0f} s.",
        remedy="See 'raypipe status' for what it is doing, then ask again.",
    )


def _cutting(answer: ReshardAnswer) -> str:
    from raypipe.cli.progress import sized

    return f"cutting its state beside its work: {sized(answer.cut_bytes)} done, {sized(answer.left_bytes)} left"
