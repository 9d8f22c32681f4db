"""Verifies a pipeline, running or stopped: one source position, one cut, every sink beside the oracle."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from raypipe.contracts import Log
from raypipe.errors import InvariantBroken, Unavailable
from raypipe.log import open_existing_log, open_log
from raypipe.model import SinkTable
from raypipe.plan.model import Plan, SinkPlan
from raypipe.sources import open_instance
from raypipe.steps import stateful_relations
from raypipe.verify.at_work import Observer, a_run
from raypipe.verify.compare import EXAMPLES, compare, key_of, names_of, tolerance, with_values
from raypipe.verify.hold import LOOK_S, Hold
from raypipe.verify.holders import held_at
from raypipe.verify.oracle import Oracle
from raypipe.verify.report import Report, TableReport
from raypipe.verify.strays import Strays


def verify(
    plan: Plan, *, values: bool = False, observer: Observer = lambda _: None, timeout_s: float = 300.0
) -> Report:
    """Compares every sink with the steps' SQL over the source tables, all at one cut.

    A running pipeline keeps running: its readers pause for as long as a read transaction takes to open, its sinks
    rest at the cut while they are compared. A stopped one is run, here, up to the position the oracle saw.

    Args:
        plan: Of the pipeline.
        values: Put whole rows into the report's examples; without, only keys.
        observer: Told in words what is being done.
        timeout_s: For the pipeline to load, to stop at the position, and to bring its sinks there.

    Raises:
        Unavailable: the pipeline did not get there in time, or ended meanwhile.
        RaypipeError: what running it raised.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raypipe-verify-")))
        log = open_log(plan.log, pipeline=plan.pipeline)
        stack.callback(log.close)
        alive = stack.enter_context(a_run(plan, log, observer))
        _await_loaded(log, alive, timeout_s)
        hold = stack.enter_context(Hold(lambda: open_existing_log(plan.log, pipeline=plan.pipeline), alive, timeout_s))
        observer("asking the readers to stand still")
        hold.held()
        oracle = Oracle(folder)
        stack.callback(oracle.close)
        with ExitStack() as reading:
            views = {
                instance.name: reading.enter_context(open_instance(plan, instance.name).view())
                for instance in plan.instances
            }
            hold.cut({name: view.position for name, view in views.items()})
            parked = oracle.load(plan, views, lambda table, rows: observer(f"reading {table}: {rows:,} rows"))
            hold.reached()
        observer("waiting for the sinks to reach the cut")
        number = hold.ready()
        cut = log.cut(number)
        if cut is None:
            raise InvariantBroken(f"The log forgot cut {number} while it was being verified.")
        oracle.stand_at(cut.at)
        reports = [
            report for sink in plan.sinks for report in _verify_sink(plan, oracle, sink, number, values, observer)
        ]
        return Report(
            pipeline=plan.pipeline,
            cut=number,
            positions=cut.positions,
            tables=tuple(reports),
            parked=parked,
            seconds=round(time.monotonic() - began, 3),
        )


def _await_loaded(log: Log, alive: Callable[[], None], timeout_s: float) -> None:
    """Waits for the first whole load: before it there is no state to compare."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while time.monotonic() < deadline:
        alive()
        cut = log.last_cut()
        if cut is not None and not cut.loading:
            return
        pause.wait(LOOK_S)
    raise Unavailable(
        f"The source tables were not loaded within {timeout_s:.0f} s.",
        remedy="See 'raypipe status' for the progress, then verify again.",
    )


def _verify_sink(
    plan: Plan, oracle: Oracle, sink: SinkPlan, number: int, values: bool, observer: Observer
) -> Iterator[TableReport]:
    with held_at(sink, plan.pipeline, number) as holders:
        for name, (table, units) in holders.items():
            where = sink.name if len(units) > 1 else next(iter(units))
            observer(f"comparing {where}: {name}")
            expected = oracle.expect(plan, table.relation)
            strays = Strays(name, names_of(table.schema) if values else key_of(table.schema), EXAMPLES)
            rows = chain.from_iterable(strays.watch(unit, contents) for unit, contents in units.items())
            rounded = _rounded(plan, table)
            report = compare(oracle, expected, where, table, rows, columns=table.schema, rounded=rounded)
            if strays.count:
                examples = {**report.examples, "misplaced": tuple(strays.examples)}
                report = replace(report, misplaced=strays.count, examples=examples)
            if values and not report.ok:
                report = replace(report, examples=with_values(oracle, report))
            yield report


def _rounded(plan: Plan, table: SinkTable) -> dict[str, float]:
    """Columns of a stateful relation that are floating point, with how far apart their values may be."""
    if table.relation not in stateful_relations(plan):
        return {}
    columns = table.schema.columns
    return {column.name: tolerance(column.type) for column in columns if pa.types.is_floating(column.type)}
