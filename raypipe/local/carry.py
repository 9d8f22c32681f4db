"""One epoch, carried in this process: read a slice of the log, run the steps, write the sinks, commit each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

from raypipe import faults
from raypipe.contracts import EpochOutcome, Log, Sink
from raypipe.errors import RaypipeError, Unavailable
from raypipe.model import ChangeBatch, Committed, Cut, Epoch


class Carrier(Protocol):
    """What carrying needs from the steps: changes of one topic in, changes of relations out."""

    def apply(self, relation: str, batch: ChangeBatch) -> Iterator[tuple[str, ChangeBatch]]:
        """Runs a batch of a source table through the steps."""
        ...


class Interrupted(Unavailable):
    """The run is ending: the epoch was thrown away, nothing of it was committed."""


# Slices are the unit in which an epoch is read; small enough that asking whether to go on costs no latency.
SLICE_BYTES = 8 << 20


def carry(
    *,
    log: Log,
    flow: Carrier,
    relations: Mapping[str, str],
    sinks: Mapping[str, Sink],
    generations: Mapping[str, int],
    after: Cut | None,
    upto: Cut,
    keep_going: Callable[[], bool],
) -> EpochOutcome:
    """Carries sinks that hold ``after`` to ``upto``, in the calling thread.

    Args:
        log: To read from.
        flow: The steps.
        relations: Topic to the relation it carries.
        sinks: Open, by name.
        generations: Of each sink.
        after: See ``Epoch``.
        upto: See ``Epoch``.
        keep_going: Asked before each batch.

    Raises:
        Interrupted: ``keep_going`` said no.
        RaypipeError: log or steps failed; no sink committed.
    """
    seconds = dict.fromkeys(("read_log", "steps", "write_sinks", "commit_sinks"), 0.0)
    failed: dict[str, RaypipeError] = {}
    at_work = dict(sinks)
    feeds = _feeds(sinks)
    rows = 0

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
        mark = time.perf_counter()
        for part in log.slices(after, upto, tuple(relations), SLICE_BYTES):
            for logged in log.read(part):
                if not keep_going():
                    raise Interrupted("The run is ending; the epoch in hand was thrown away.")
                rows += logged.batch.num_rows
                mark = _add(seconds, "read_log", mark)
                for relation, batch in flow.apply(relations[logged.topic], logged.batch):
                    faults.point("epoch.step.after")
                    mark = _add(seconds, "steps", mark)
                    for name, table in feeds.get(relation, ()):
                        if name in at_work:
                            attempt(name, partial(sinks[name].write, table, batch))
                    mark = _add(seconds, "write_sinks", mark)
                mark = _add(seconds, "steps", mark)
        _add(seconds, "read_log", mark)
    except BaseException:
        for sink in at_work.values():
            with suppress(RaypipeError):
                sink.abort()
        raise
    committed: dict[str, Committed] = {}
    mark = time.perf_counter()
    for name, sink in tuple(at_work.items()):
        try:
            committed[name] = sink.commit()
        except RaypipeError as error:
            failed[name] = error
    _add(seconds, "commit_sinks", mark)
    size = upto.bytes - (after.bytes if after is not None else 0)
    return EpochOutcome(committed=committed, failed=failed, rows=rows, bytes=size, executor="inline", seconds=seconds)


def _feeds(sinks: Mapping[str, Sink]) -> dict[str, list[tuple[str, str]]]:
    """Relation to the (sink, table) pairs it feeds."""
    feeds: dict[str, list[tuple[str, str]]] = {}
    for name, sink in sinks.items():
        for table in sink.tables:
            feeds.setdefault(table.relation, []).append((name, table.name))
    return feeds


def wanted(sinks: Collection[Sink]) -> tuple[str, ...]:
    """Relations that some sink table is fed from."""
    return tuple(dict.fromkeys(table.relation for sink in sinks for table in sink.tables))


def _add(seconds: dict[str, float], stage: str, mark: float) -> float:
    now = time.perf_counter()
    seconds[stage] += now - mark
    return now
