"""raypipe in a process of its own: ``python -m benchmarks.flink.raypipe_worker JOB.json``.

It goes the same way as `worker` does: the question over a small input first, its answer written to a file; then
``ready``; then, told ``go``, over the whole input, what sinks would be told thrown away; ``done``, and what it did.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.flink.feeds import PIPELINE, Feed, FileFeed, LogFeed
from benchmarks.flink.inputs import TABLES, open_inputs
from benchmarks.flink.queries import QUERIES, Query
from raypipe.engine.sizing import EpochSizing
from raypipe.local.demand import Demand
from raypipe.local.inline import Executor
from raypipe.local.stateful import Stateful, StatefulExecutor
from raypipe.model import OP, ChangeBatch, Cut, Op
from raypipe.plan import InstancePlan, Plan, compile_step
from raypipe.steps import Flow, Needs

STEP = "answer"
# An epoch is to take a second at most; epochs aim lower, for the next one is never quite like the last.
TARGET_S = 0.75
# What a change weighs for the sizing of epochs, which counts bytes.
_LINE_BYTES = 256
# As in a pipeline whose file says nothing else.
_MOST_BYTES = 256 << 20
# Of the small input, so that its answer is one after many epochs.
_CHECKED_LINES = 5_000
_WEIGHTS = np.array([op.weight for op in Op])
# What sinks would be told: counted, or kept.
Told = Callable[[ChangeBatch], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does.

    Attributes:
        query: Name of the question.
        checked: Folder of the small input, whose answer is written.
        measured: Folder of the whole one.
        logs: URLs of two logs with the same changes, read instead of the files; None for the files.
        state: Folder for what is remembered.
        answer: File for the small input's answer.
        epoch_lines: Changes of an epoch; 0: as many as its time allows.
        lead_lines: Changes of the whole input that are read before ``ready``.
        most_lines: Changes that are measured, at most.
    """

    query: str
    checked: str
    measured: str
    logs: tuple[str, str] | None
    state: str
    answer: str
    epoch_lines: int = 0
    lead_lines: int = 0
    most_lines: int = sys.maxsize


@dataclass(kw_only=True)
class Did:
    """What was done.

    Attributes:
        lines: Changes read.
        epochs: Carried, each durable at its end.
        longest_s: Of them.
        told: Row images that sinks would be told.
    """

    lines: int = 0
    epochs: int = 0
    longest_s: float = 0.0
    told: int = 0


class View:
    """A question kept up to date over a feed.

    Args:
        query: The question.
        feed: Of changes.
        folder: For what is remembered.
    """

    def __init__(self, query: Query, feed: Feed, folder: Path) -> None:
        self._feed = feed
        plan = plan_of(query, folder)
        demand = Demand(plan, {STEP})
        self._inputs = demand.inputs
        self._flow = Flow(plan, demand.streamed({STEP}))
        self._stateful = Stateful(plan, demand, feed.identity) if demand else None
        if self._stateful is not None:
            self._stateful.open(1)
        self._sizing = EpochSizing(_MOST_BYTES, TARGET_S)
        first = feed.next(None, 0)
        assert first is not None
        self._cut = first
        for _ in self._outputs(None):
            pass

    def carry(self, epoch_lines: int, most_lines: int, told: Told) -> Did:
        """Carries the view over changes, epoch by epoch; returns what was done.

        Args:
            epoch_lines: See ``Job``.
            most_lines: Of changes, at most.
            told: Takes what sinks would be told.
        """
        did = Did()
        while did.lines < most_lines:
            began = time.perf_counter()
            lines = epoch_lines or max(1, self._sizing.budget_bytes() // _LINE_BYTES)
            after = self._cut
            upto = self._feed.next(after, min(lines, most_lines - did.lines))
            if upto is None:
                break
            self._cut = upto
            for batch in self._outputs(after):
                did.told += batch.num_rows
                told(batch)
            if self._stateful is not None:
                self._stateful.keep([upto.number])
            spent = time.perf_counter() - began
            done = self._feed.taken(upto) - self._feed.taken(after)
            self._sizing.observe(done * _LINE_BYTES, spent)
            did.lines += done
            did.epochs += 1
            did.longest_s = max(did.longest_s, spent)
        return did

    def _outputs(self, after: Cut | None) -> Iterator[ChangeBatch]:
        executor: Executor = self._feed.executor(self._flow)
        if self._stateful is not None:
            needs = Needs(wanted=frozenset([STEP]), awaited=frozenset([STEP]) if after is None else frozenset())
            executor = StatefulExecutor(executor, self._stateful.begin, self._inputs, frozenset([STEP]), needs)
        for output in executor.outputs(after, self._cut):
            if output is not None:
                yield output[1]

    def close(self) -> None:
        """Ends everything but the feed."""
        if self._stateful is not None:
            self._stateful.close()
        self._flow.close()


def plan_of(query: Query, folder: Path) -> Plan:
    """A pipeline of one step, over the tables that it reads."""
    tables = tuple(TABLES[table] for table in query.tables)
    schemas = {str(schema.table): schema for schema in tables}
    name = tables[0].table.instance
    return Plan(
        pipeline=PIPELINE,
        log="",
        instances=(InstancePlan(name=name, url="", chosen=(), tables=tables),),
        steps=(compile_step(STEP, query.step, schemas, {}),),
        sinks=(),
        limits={"step_rows": 100_000_000, "step_memory_bytes": 8 << 30, "step_seconds": 600, "state_bytes": 64 << 30},
        state=str(folder),
    )


def answer(query: Query, feed: Feed, folder: Path, file: Path) -> Did:
    """Carries a view over a whole feed and writes all it tells, with weights, to a Parquet file."""
    with closing(feed), closing(View(query, feed, folder)) as view:
        schema = plan_of(query, folder).steps[0].schema.arrow().append(pa.field("_weight", pa.int64()))
        with pq.ParquetWriter(file, schema) as writer:

            def write(batch: ChangeBatch) -> None:
                weights = pa.array(_WEIGHTS[batch.rows.column(OP).to_numpy()], pa.int64())
                rows = pa.table(batch.rows).select(list(batch.schema.names))
                writer.write_table(rows.append_column("_weight", weights).cast(schema))

            return view.carry(_CHECKED_LINES, sys.maxsize, write)


def main() -> None:
    """Does one job."""
    told: Mapping[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    job = Job(**told)
    query = QUERIES[job.query]
    state = Path(job.state)
    answer(query, _feed(job, job.checked, 0), state / "checked", Path(job.answer))
    with closing(_feed(job, job.measured, 1)) as feed, closing(View(query, feed, state / "measured")) as view:
        if job.lead_lines:
            view.carry(0, job.lead_lines, _forget)
        print("ready", flush=True)
        if sys.stdin.readline().strip() != "go":
            return
        did = view.carry(job.epoch_lines, job.most_lines, _forget)
        print(f"done {json.dumps(asdict(did))}", flush=True)
        sys.stdin.read()


def _feed(job: Job, folder: str, place: int) -> Feed:
    inputs = open_inputs(Path(folder))
    tables = QUERIES[job.query].tables
    return LogFeed(job.logs[place], inputs, tables) if job.logs else FileFeed(inputs, tables)


def _forget(batch: ChangeBatch) -> None:
    pass


if __name__ == "__main__":
    main()
