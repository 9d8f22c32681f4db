"""One epoch: what an executor makes of the log between two cuts goes into the sinks, and each commits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from raypipe import faults
from raypipe.contracts import EpochOutcome
from raypipe.errors import RaypipeError, Unavailable
from raypipe.local.inline import Executor
from raypipe.model import ChangeBatch, Committed, Cut, Epoch, SinkTable

Commits = tuple[dict[str, Committed], dict[str, RaypipeError]]


class EpochSink(Protocol):
    """What carrying needs of a sink, or of somebody who passes everything on to one."""

    @property
    def tables(self) -> tuple[SinkTable, ...]:
        """See ``Sink``."""
        ...

    def begin(self, epoch: Epoch) -> None:
        """See ``Sink``."""
        ...

    def write(self, table: str, batch: ChangeBatch) -> None:
        """See ``Sink``."""
        ...

    def commit(self) -> Committed:
        """See ``Sink``."""
        ...

    def abort(self) -> None:
        """See ``Sink``."""
        ...


SinkT = TypeVar("SinkT", bound=EpochSink)


class Interrupted(Unavailable):
    """The run is ending: the epoch was thrown away, nothing of it was committed."""


def commit_in_turn(sinks: Mapping[str, EpochSink]) -> Commits:
    """Commits one sink after the other; what one fails does not concern the next."""
    committed: dict[str, Committed] = {}
    failed: dict[str, RaypipeError] = {}
    for name, sink in sinks.items():
        try:
            committed[name] = sink.commit()
        except RaypipeError as error:
            failed[name] = error
    return committed, failed


def carry(
    *,
    executor: Executor,
    sinks: Mapping[str, SinkT],
    generations: Mapping[str, int],
    after: Cut | None,
    upto: Cut,
    keep_going: Callable[[], bool],
    commit: Callable[[Mapping[str, SinkT]], Commits] = commit_in_turn,
) -> EpochOutcome:
    """Carries sinks that hold ``after`` to ``upto``, in the calling thread.

    Args:
        executor: Reads the log and runs the steps; fresh for each epoch.
        sinks: Open, by name.
        generations: Of each sink.
        after: See ``Epoch``.
        upto: See ``Epoch``.
        keep_going: Asked for each batch; once it says no the epoch is thrown away.
        commit: How the sinks are committed.

    Raises:
        Interrupted: ``keep_going`` said no; no sink committed.
        RaypipeError: log or steps failed; no sink committed.
    """
    failed: dict[str, RaypipeError] = {}
    at_work = dict(sinks)
    feeds = _feeds(sinks)
    write_s = 0.0

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except RaypipeError as error:
            failed[name] = error
            at_work.pop(name)

    try:
        faults.point("epoch.begin")
        for name, sink in sinks.items():
            epoch = Epoch(after=after, upto=upto, generation=generations[name])
            attempt(name, partial(sink.begin, epoch))
        for output in executor.outputs(after, upto):
            if not keep_going():
                raise Interrupted("The run is ending; the epoch in hand was thrown away.")
            if output is None:
                continue
            relation, batch = output
            began = time.perf_counter()
            for name, table in feeds.get(relation, ()):
                if name in at_work:
                    attempt(name, partial(sinks[name].write, table, batch))
            write_s += time.perf_counter() - began
    except BaseException:
        _abort(at_work.values())
        raise
    began = time.perf_counter()
    committed, rejected = commit(at_work)
    seconds = {**executor.seconds, "write_sinks": write_s, "commit_sinks": time.perf_counter() - began}
    return EpochOutcome(
        committed=committed,
        failed=failed | rejected,
        rows=executor.rows,
        bytes=upto.bytes - (after.bytes if after is not None else 0),
        executor=executor.name,
        seconds=seconds,
    )


def _feeds(sinks: Mapping[str, EpochSink]) -> dict[str, list[tuple[str, str]]]:
    """Relation to the (sink, table) pairs it feeds."""
    feeds: dict[str, list[tuple[str, str]]] = {}
    for name, sink in sinks.items():
        for table in sink.tables:
            feeds.setdefault(table.relation, []).append((name, table.name))
    return feeds


def _abort(sinks: Iterable[EpochSink]) -> None:
    for sink in sinks:
        with suppress(RaypipeError):
            sink.abort()
