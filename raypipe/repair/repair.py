"""Repairs a pipeline, running or stopped: compares what the sinks hold with the source, and has the difference read.

The order is what makes it right. Where changes were missed, the source is first made able to serve every change from
now on, and the log's position moved there. Only then is anything compared: at one cut, at which the sinks hold what the
source's read transaction sees unless they are wrong. What differs is a list of keys and no more: the reader reads those
rows again beside the stream (``ReadAgain``), which is right at any time and however often it is done, so a repair that
dies is simply run again. Until the last of a table's keys is read, the log's cuts say that the table is unfinished.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

from raypipe import faults
from raypipe.contracts import CanBeRepaired, ComparesTables, Log, ReadAgain, SourceView
from raypipe.engine.snapshots import answered_again, ask_again, asked_again, new_wish_ids
from raypipe.errors import InvariantBroken, Kind, RaypipeError, Unavailable
from raypipe.local.at_work import at_work
from raypipe.log import open_existing_log, open_log
from raypipe.model import Mode
from raypipe.plan.model import Plan
from raypipe.repair.choose import Choice, Target, choose
from raypipe.repair.compare import Comparison
from raypipe.repair.report import Report, TableReport
from raypipe.sources import open_instance
from raypipe.verify.at_work import Observer, a_run, read_status
from raypipe.verify.hold import LOOK_S, Hold
from raypipe.verify.holders import held_at

# Wishes that wait in the log at once, some thousands of keys each: no more than a log should keep notes of.
MOST_WISHES = 8


def repair(
    plan: Plan,
    *,
    tables: Sequence[str] = (),
    new_slot: bool = False,
    observer: Observer = lambda _: None,
    timeout_s: float = 300.0,
) -> Report:
    """Makes the sinks right again, reading only what differs.

    Args:
        plan: Of the pipeline.
        tables: ``instance.table``, to compare; none: all that can be.
        new_slot: Lead sources that cannot go on from the log's position over the gap. Nothing may be at work then;
            tables that cannot be compared are loaded as a whole.
        observer: Told in words what is being done.
        timeout_s: For each thing that is waited for without any progress.

    Raises:
        RaypipeError: of kind PIPELINE_FILE: a table cannot be compared.
        SourceGap: a source cannot go on, and was not to be led over it or cannot be.
        Unavailable: something did not answer, or was waited for too long.
    """
    began = time.monotonic()
    choice = choose(plan, tables)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raypipe-repair-")))
        log = open_log(plan.log, pipeline=plan.pipeline)
        stack.callback(log.close)
        early = _views(plan, stack) if faults.armed("mutant.repair_before_slot") else None
        bridged = tuple(_over_gaps(plan, log, choice, tables, observer)) if new_slot else ()
        alive = stack.enter_context(a_run(plan, log, observer))
        waiting = _Waiting(log, alive, timeout_s)
        chosen = frozenset(target.table for target in choice.targets)
        # Tables that were not named are nobody's concern here; of all, those to compare may be unsure.
        others = (
            frozenset(str(s.table) for each in plan.instances for s in each.tables) - chosen if tables else frozenset()
        )
        waiting.until_loaded(but=chosen | others)
        comparisons: dict[str, Comparison] = {}
        with _held_still(plan, log, alive, observer, timeout_s) as (number, views):
            reports = []
            for target in choice.targets:
                comparison = _compared(plan, target, (early or views)[target.instance], number, folder, observer)
                stack.callback(comparison.close)
                comparisons[target.table] = comparison
                reports.append(comparison.find())
        faults.point("repair.compare.after")
        for target, report in zip(choice.targets, reports, strict=True):
            _ask(log, target, report, comparisons[target.table], waiting, observer)
        faults.point("repair.ask.after")
        observer("waiting until everything was read again")
        waiting.until_answered({target.instance for target in choice.targets}, 0)
        waiting.until_loaded(but=others)
        return Report(
            pipeline=plan.pipeline,
            cut=number,
            repaired_at=waiting.until_committed(),
            tables=tuple(reports),
            left=choice.left,
            bridged=bridged,
            seconds=round(time.monotonic() - began, 3),
        )


def _over_gaps(plan: Plan, log: Log, choice: Choice, tables: Sequence[str], observer: Observer) -> Iterator[str]:
    """Leads every source that cannot go on over its gap; yields those instances."""
    status = read_status(log)
    if status is not None and at_work(status):
        raise RaypipeError(
            f"Run {status.run} is at work, so its sources can go on: no new slot is needed.",
            kind=Kind.PIPELINE_FILE,
            remedy="Leave --new-slot out, or stop the run first.",
        )
    if tables:
        raise RaypipeError(
            "What was missed in a gap may be in any table, so all of them are repaired.",
            kind=Kind.PIPELINE_FILE,
            remedy="Leave the tables' names out.",
        )
    for instance in plan.instances:
        source = open_instance(plan, instance.name)
        position = log.position(instance.name)
        if position is None or not isinstance(source, CanBeRepaired):
            continue
        names = [str(schema.table) for schema in instance.tables]
        anew = [name for name in names if name in choice.left]
        found = source.over_gap(position, anew, in_order=_has_history(plan, names))
        if found is None:
            continue
        observer(f"{instance.name}: a new slot keeps every change from now on")
        # What an older repair still wants was found out before the gap: it must not call a table sure behind it.
        answered_again(log, instance.name, [wish.id for wish in asked_again(log, instance.name) if wish.last])
        # The run that follows begins behind the gap; every older one is fenced by the claim.
        transaction = log.begin(instance.name, log.claim(plan.pipeline))
        try:
            transaction.commit(found, boundary=True, loading=[name for name in names if name not in anew])
        except BaseException:
            transaction.abort()
            raise
        faults.point("repair.position.after")
        yield instance.name


def _has_history(plan: Plan, tables: Sequence[str]) -> bool:
    topics = {plan.topic(table) for table in tables}
    return any(
        topics.intersection(plan.topics_of(table.relation))
        for sink in plan.sinks
        for table in sink.tables
        if table.mode is Mode.HISTORY
    )


def _views(plan: Plan, stack: ExitStack) -> dict[str, SourceView]:
    return {each.name: stack.enter_context(open_instance(plan, each.name).view()) for each in plan.instances}


@contextmanager
def _held_still(
    plan: Plan, log: Log, alive: Callable[[], None], observer: Observer, timeout_s: float
) -> Iterator[tuple[int, Mapping[str, SourceView]]]:
    """The number of a cut that every sink holds, and views of the sources at that very cut."""
    with ExitStack() as stack:
        hold = stack.enter_context(Hold(lambda: open_existing_log(plan.log, pipeline=plan.pipeline), alive, timeout_s))
        observer("asking the readers to stand still")
        hold.held()
        views = _views(plan, stack)
        hold.cut({name: view.position for name, view in views.items()})
        hold.reached()
        observer("waiting for the sinks to reach the cut")
        number = hold.ready()
        if log.cut(number) is None:
            raise InvariantBroken(f"The log forgot cut {number} while it was being compared.")
        yield number, views


def _compared(
    plan: Plan, target: Target, view: SourceView, number: int, folder: Path, observer: Observer
) -> Comparison:
    """A comparison that has taken every copy of the table."""
    if not isinstance(view, ComparesTables):
        raise InvariantBroken(f"Source {target.instance} cannot be compared after all.")
    schema = next(schema for each in plan.instances for schema in each.tables if str(schema.table) == target.table)
    comparison = Comparison(folder, target.table, len(schema.key), view)
    try:
        for sink in plan.sinks:
            names = [table for name, table in target.copies if name == sink.name]
            if not names:
                continue
            with held_at(sink, plan.pipeline, number) as holders:
                for name in names:
                    observer(f"comparing {target.table} with {sink.name}: {name}")
                    _, units = holders[name]
                    rows = chain.from_iterable(contents.rows(name) for contents in units.values())
                    comparison.hold(f"{sink.name}.{name}", rows)
    except BaseException:
        comparison.close()
        raise
    return comparison


def _ask(
    log: Log, target: Target, report: TableReport, comparison: Comparison, waiting: _Waiting, observer: Observer
) -> None:
    """Has the suspect keys read again, a bounded number at a time; the last wish makes the table sure."""
    if report.reread or report.deleted:
        observer(f"{target.table}: {report.reread + report.deleted:,} keys differ and are read again")
    ids = new_wish_ids()
    pending: tuple[tuple[str, ...], ...] = ()
    for keys in comparison.suspects():
        if pending:
            waiting.until_answered({target.instance}, MOST_WISHES - 1)
            ask_again(log, target.instance, ReadAgain(id=next(ids), table=target.table, keys=pending))
        pending = keys
    waiting.until_answered({target.instance}, MOST_WISHES - 1)
    ask_again(log, target.instance, ReadAgain(id=next(ids), table=target.table, keys=pending, last=True))


class _Waiting:
    """Waits for what the run does, as long as it lives and gets on.

    Args:
        log: Of the pipeline.
        alive: Raises if the run has ended.
        timeout_s: For each step.
    """

    def __init__(self, log: Log, alive: Callable[[], None], timeout_s: float) -> None:
        self._log = log
        self._alive = alive
        self._timeout_s = timeout_s
        self._pause = threading.Event()

    def until_loaded(self, but: frozenset[str]) -> None:
        """Until no table is unfinished at the newest cut, some perhaps excepted."""

        def left() -> int:
            cut = self._log.last_cut()
            return 1 if cut is None else len(set(cut.loading) - but)

        self._until(left, 0, "load its tables")

    def until_answered(self, instances: set[str], most: int) -> None:
        """Until at most so many wishes are unanswered."""
        self._until(lambda: sum(len(asked_again(self._log, each)) for each in instances), most, "read rows again")

    def until_committed(self) -> int:
        """Until every sink holds the newest cut of now, whose number is returned."""
        cut = self._log.last_cut()
        number = cut.number if cut is not None else 0

        def behind() -> int:
            status = read_status(self._log)
            sinks = status.sinks if status is not None else ()
            return sum(1 for sink in sinks if (sink.cut or 0) < number) + (not sinks)

        self._until(behind, 0, "bring every sink to the repaired cut")
        return number

    def _until(self, left: Callable[[], int], most: int, what: str) -> None:
        before, deadline = None, time.monotonic() + self._timeout_s
        while (now := left()) > most:
            self._alive()
            if before is None or now < before:
                before, deadline = now, time.monotonic() + self._timeout_s
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The run did not {what} within {self._timeout_s:.0f} s.",
                    remedy="See 'raypipe status' for what it waits for, then repair again.",
                )
            self._pause.wait(LOOK_S)
