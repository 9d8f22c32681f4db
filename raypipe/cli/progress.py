"""The progress of a run: a live display on a terminal, a line now and then elsewhere, JSON lines for machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol

from raypipe.cli.terminal import counted, say
from raypipe.engine.status import CarryingOn, InstanceStatus, SinkStatus, Status

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raypipe.contracts import CheckpointReport, ReshardReport, StateReport

# Between lines when nothing but numbers changed, so that a log file of a long run stays readable.
LINE_EVERY_S = 5.0
# What a database keeps for us is always a little.
WORTH_TELLING_BYTES = 1_000_000
# More sinks than this that the same is true of are counted, so that a line stays one.
MOST_NAMES = 3


class Progress(Protocol):
    """Shows a status."""

    def __call__(self, status: Status) -> None:
        """Called about twice a second."""
        ...


def for_people(*, line_every_s: float = LINE_EVERY_S) -> AbstractContextManager[Progress]:
    """Live on a terminal, lines elsewhere."""
    return live() if sys.stdout.isatty() else lines(line_every_s)


@contextmanager
def json_lines() -> Iterator[Progress]:
    """Every status as one line of JSON."""
    yield lambda status: say(status.to_json())


@contextmanager
def lines(every_s: float) -> Iterator[Progress]:
    """A line when something other than a number changes, and every few seconds."""
    shown: tuple[object, ...] = ()
    shown_at = 0.0

    def show(status: Status) -> None:
        nonlocal shown, shown_at
        states = (
            status.state,
            status.carrying_on is None,
            *((instance.state, instance.error) for instance in status.instances),
            *((sink.state, sink.error) for sink in status.sinks),
        )
        now = time.monotonic()
        if states != shown or now - shown_at >= every_s:
            shown, shown_at = states, now
            say(one_line(status))

    yield show


@contextmanager
def live() -> Iterator[Progress]:
    """A table that is drawn again in place."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, refresh_per_second=4, transient=False) as display:
        yield lambda status: display.update(_table(status))


def one_line(status: Status) -> str:
    """A status in one line."""
    parts = [
        f"{status.pipeline} run {status.run} {status.state}",
        counted(status.rows, "row"),
        f"{status.rows_per_s:,.0f} rows/s",
        counted(status.epochs, "epoch"),
        *(f"{instance.name} {instance_words(instance)}" for instance in status.instances),
        *(f"{_together(names)} {words}" for words, names in _alike(status.sinks).items()),
        *([carrying_words(status.carrying_on)] if status.carrying_on is not None else []),
    ]
    return " | ".join(parts)


def carrying_words(carrying: CarryingOn) -> str:
    """How far state is that was behind the sinks."""
    return f"carrying state on: cut {carrying.cut} of {carrying.upto}"


def _alike(sinks: Iterable[SinkStatus]) -> dict[str, list[str]]:
    """Names of the sinks that the same words are true of; when all goes well, that is all of them."""
    names: dict[str, list[str]] = {}
    for sink in sinks:
        names.setdefault(sink_words(sink), []).append(sink.name)
    return names


def _together(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else counted(len(names), "sink")


def instance_words(instance: InstanceStatus) -> str:
    """What a reader is doing."""
    words = [instance.state]
    words += [f"{table} {share:.0%}" for table, share in instance.loading.items()]
    if instance.pending:
        words.append(f"{instance.pending:,} waiting")
    if instance.parked:
        words.append(f"{instance.parked:,} parked")
    if instance.kept.get("kept_bytes", 0) >= WORTH_TELLING_BYTES:
        safe = instance.kept.get("safe_bytes")
        bound = f", {safe / 1e6:,.0f} MB before it gives up" if safe is not None else ""
        words.append(f"({instance.kept['kept_bytes'] / 1e6:,.1f} MB kept by the database{bound})")
    if instance.error:
        words.append(f"({instance.error})")
    return " ".join(words)


def sink_words(sink: SinkStatus) -> str:
    """Where a sink stands."""
    words = [f"cut {sink.cut}" if sink.cut is not None else "no cut yet"]
    if sink.state != "ready":
        words.insert(0, sink.state)
    if sink.lag_rows or sink.lag_s:
        words.append(f"{sink.lag_s:.1f} s ({counted(sink.lag_rows, 'row')}) behind")
    if sink.error:
        words.append(f"({sink.error})")
    return " ".join(words)


def state_words(report: StateReport) -> str:
    """What a state holds."""
    total = report.total
    words = [
        f"cut {report.cut}" if report.cut is not None else "no cut yet",
        f"{counted(total.rows, 'row')} in {counted(total.traces, 'trace')}",
        f"{sized(report.bytes)} of {sized(report.limit)}",
    ]
    return ", ".join(words)


def checkpoint_words(report: CheckpointReport) -> str:
    """Which checkpoints a state can be restored from."""
    words = [f"checkpoint at cut {report.versions[-1]}" if report.versions else "no checkpoint yet"]
    if report.making is not None:
        words.append(f"one at cut {report.making} on its way")
    return "; ".join([*words, *([report.trouble] if report.trouble else [])])


def reshard_words(report: ReshardReport) -> str:
    """How far a shard of the state is with being cut for another number of them."""
    words = [f"is cut for {counted(report.shards, 'shard')}", f"{sized(report.cut_bytes)} done"]
    words.append("ready" if report.ready else f"{sized(report.left_bytes)} left")
    return ", ".join([*words, *([report.trouble] if report.trouble else [])])


def sized(size: int) -> str:
    """A size on disk, ``1.5 MB``."""
    scale, unit = next(((scale, unit) for scale, unit in ((1e9, "GB"), (1e6, "MB")) if size >= scale), (1e3, "kB"))
    return f"{size / scale:,.1f} {unit}"


def _table(status: Status) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (status.pipeline, "bold"),
        f"  run {status.run} ({status.runner})  ",
        (status.state, "green" if status.state in ("running", "stopped") else "yellow"),
        f"  {status.rows:,} rows  ",
        (f"{status.rows_per_s:,.0f} rows/s", "bold"),
        f"  {counted(status.epochs, 'epoch')}",
        *(f"  {name} {count}" for name, count in status.executors.items()),
    )
    grid = Table.grid(padding=(0, 2))
    for instance in status.instances:
        grid.add_row("source", Text(instance.name, "cyan"), Text(instance_words(instance)))
        for table, share in instance.loading.items():
            grid.add_row("", Text(table), ProgressBar(total=1.0, completed=share, width=40))
    for sink in status.sinks:
        grid.add_row("sink", Text(sink.name, "cyan"), Text(sink_words(sink), "red" if sink.error else ""))
    if status.carrying_on is not None:
        grid.add_row("state", "", Text(carrying_words(status.carrying_on)))
    for report in status.stateful:
        grid.add_row("state", Text(PurePath(report.folder).name, "cyan"), Text(state_words(report)))
    return Group(head, grid)
