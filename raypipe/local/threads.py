"""All shards of the state in one process, a thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from raypipe.contracts import StateReport
from raypipe.errors import OutcomeUnknown
from raypipe.local.demand import Demand
from raypipe.local.shards import Shards
from raypipe.local.stateful import Output, StateEpoch, Stateful
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.state import lineage_of
from raypipe.steps import Needs

T = TypeVar("T")


class _LeftAlone(OutcomeUnknown):
    """Another shard failed, which is what should be told."""


class Office:
    """Threads, one for each shard, and the post between them. A shard that fails lets none of the others wait.

    Args:
        shards: How many.
    """

    def __init__(self, shards: int) -> None:
        self._barrier = threading.Barrier(shards)
        self._parcels: list[Sequence[Any]] = [()] * shards
        self._threads = [ThreadPoolExecutor(1, f"raypipe-state-{shard}") for shard in range(shards)]
        self.exchanges = [Shards(shard, shards, _Post(self, shard)) for shard in range(shards)]

    def begin(self) -> None:
        """Forgets that a shard failed. Nothing is at work."""
        self._barrier.reset()

    def submit(self, shard: int, work: Callable[[], T]) -> Future[T]:
        """Has a shard do something."""
        return self._threads[shard].submit(self._done, work)

    def together(self, work: Callable[[int], T]) -> list[T]:
        """Has every shard do its part; returns what each made.

        Raises:
            RaypipeError: what one of them raised.
        """
        return settled([self.submit(shard, partial(work, shard)) for shard in range(len(self._threads))])

    def swap(self, shard: int, parcels: Sequence[Any]) -> list[Any]:
        """See ``Post``."""
        self._parcels[shard] = parcels
        try:
            self._barrier.wait()
            mine = [each[shard] for each in self._parcels]
            self._barrier.wait()  # nobody may give the next one before all have this one
        except threading.BrokenBarrierError:
            raise _LeftAlone("Another shard of the state failed.") from None
        return mine

    def let_go(self) -> None:
        """Lets every shard fail that waits for others, or will."""
        self._barrier.abort()

    def close(self) -> None:
        """Ends the threads when they are done."""
        self.let_go()
        for thread in self._threads:
            thread.shutdown()

    def _done(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except BaseException:
            self.let_go()
            raise


class _Post:
    """See ``Post``: of one shard."""

    def __init__(self, office: Office, shard: int) -> None:
        self._office = office
        self._shard = shard

    def swap(self, parcels: Sequence[Any]) -> list[Any]:
        return self._office.swap(self._shard, parcels)


def settled(parts: Sequence[Future[Any]]) -> list[Any]:
    """Waits until all are done; raises what failed first of itself, returns what they made."""
    wait(parts)
    failures = [error for part in parts if (error := part.exception()) is not None]
    if failures:
        raise next((error for error in failures if not isinstance(error, _LeftAlone)), failures[0])
    return [part.result() for part in parts]


class StatefulShards:
    """See ``Stateful``, of which it is several.

    Args:
        plan: What runs.
        demand: What its sinks want.
        identity: Of the log.
        shards: How many.
    """

    def __init__(self, plan: Plan, demand: Demand, identity: str, shards: int) -> None:
        self._members = [Stateful(plan, demand, identity, shard=shard, shards=shards) for shard in range(shards)]
        self._office = Office(shards)

    def open(self, generation: int) -> str:
        """See ``Stateful.open``."""
        self._members[0].open(generation)
        return lineage_of(self._office.together(lambda shard: self._members[shard].open(generation)))

    def versions(self) -> list[tuple[int, ...]]:
        """See ``fitting.Shards``."""
        return [member.versions() for member in self._members]

    def saved(self) -> list[tuple[int, ...]]:
        """See ``fitting.Shards``."""
        return [member.saved() for member in self._members]

    def restore(self, version: int) -> str:
        """See ``fitting.Shards``."""
        self._office.together(lambda shard: self._members[shard].restore(version))
        return lineage_of([member.lineage for member in self._members])

    def reset(self) -> None:
        """See ``fitting.Shards``."""
        for member in self._members:
            member.reset()

    def prepare(self, shards: int) -> None:
        """See ``Stateful.prepare``."""
        for member in self._members:
            member.prepare(shards)

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """See ``Stateful.checkpoint``."""
        for member in self._members:
            member.checkpoint(version, keep)

    def keep(self, cuts: Collection[int]) -> None:
        """See ``Stateful.keep``."""
        for member in self._members:
            member.keep(cuts)

    def reports(self) -> tuple[StateReport, ...]:
        """See ``Stateful.reports``: one of each shard."""
        return tuple(report for member in self._members for report in member.reports())

    def begin(self, after: Cut | None, upto: Cut, needs: Needs) -> StateEpoch:
        """See ``Stateful.begin``."""
        office = self._office
        office.begin()
        epochs = office.together(lambda shard: self._members[shard].begin(after, upto, needs, office.exchanges[shard]))
        return _Together(office, epochs)

    def let_go(self) -> None:
        """See ``Stateful.let_go``."""
        self._office.together(lambda shard: self._members[shard].let_go())

    def leave(self) -> None:
        """See ``Stateful.leave``."""
        self._office.close()
        for member in self._members:
            member.leave()

    def close(self) -> None:
        """See ``Stateful.close``."""
        self._office.close()
        for member in self._members:
            member.close()


class _Together:
    """An epoch of all shards."""

    def __init__(self, office: Office, epochs: Sequence[StateEpoch]) -> None:
        self._office = office
        self._epochs = epochs
        self._others: list[Future[None]] = []

    def feed(self, relation: str, batch: ChangeBatch) -> None:
        """See ``StateEpoch``; every shard takes its own rows out."""
        for epoch in self._epochs:
            epoch.feed(relation, batch)

    def finish(self) -> Iterator[Output]:
        """See ``StateEpoch``."""
        office = self._office
        self._others = [
            office.submit(shard, partial(self._drained, epoch)) for shard, epoch in enumerate(self._epochs) if shard
        ]
        made = self._epochs[0].finish()
        while True:
            part = office.submit(0, lambda: next(made, None))
            if part.exception() is not None:
                settled([part, *self._others])
            output = part.result()
            if output is None:
                break
            yield output
        settled(self._others)

    def abort(self) -> None:
        """See ``StateEpoch``."""
        self._office.let_go()
        with suppress(Exception):
            settled(self._others)
        for epoch in self._epochs:
            epoch.abort()

    @staticmethod
    def _drained(epoch: StateEpoch) -> None:
        for _ in epoch.finish():
            pass
