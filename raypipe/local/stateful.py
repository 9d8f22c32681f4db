"""The state of a run's stateful steps: where it lies, for which cuts it is kept, and what it makes of an epoch.

Each shard has a folder of its own, ``<state>/<number of shards>/<shard>``.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from raypipe import faults
from raypipe.contracts import StateReport, TraceTotals
from raypipe.errors import InvariantBroken, OutcomeUnknown, StateLost, Unavailable
from raypipe.local.demand import Demand
from raypipe.local.entered import enter, entered
from raypipe.local.inline import Executor
from raypipe.local.resharding import arrange, discard_others
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.state import Limits, Store
from raypipe.steps import ALONE, Exchange, Needs, Portion, Views

Output = tuple[str, ChangeBatch]


class StateEpoch(Protocol):
    """An epoch of all stateful steps: ``feed`` any number of times, then ``finish``."""

    def feed(self, relation: str, batch: ChangeBatch) -> None:
        """Takes changes of an input, in the order of the log."""
        ...

    def finish(self) -> Iterator[Output]:
        """Yields (relation, changes), then makes the state of the epoch's end durable."""
        ...

    def abort(self) -> None:
        """Throws the epoch away; nothing after ``finish``."""
        ...


class ShardEpoch(StateEpoch, Protocol):
    """An epoch of one shard."""

    def take_in(self, portion: Portion) -> None:
        """Takes what is this shard's of a batch that ``steps.Intake`` divided, in place of feeding the batch."""
        ...


# Begins an epoch: from which cut, to which, and what its sinks need.
Begin = Callable[[Cut | None, Cut, Needs], StateEpoch]


def go_on_from(held: Sequence[Collection[int]], cuts: Iterable[Cut | None]) -> bool:
    """Whether some sink can go on from what all shards keep, or nothing is kept; if not, the state is to be emptied.

    Args:
        held: Versions of each shard.
        cuts: That the sinks hold.
    """
    common = set(held[0]).intersection(*held[1:])
    return not any(held) or any(cut is not None and cut.number in common for cut in cuts)


class Stateful:
    """The state of stateful steps, and the steps. Used by one thread.

    Args:
        plan: What runs.
        demand: What its sinks want.
        identity: Of the log: state of another log means nothing.
        shard: Which part of the state this is.
        shards: Of how many.
    """

    def __init__(self, plan: Plan, demand: Demand, identity: str, *, shard: int = 0, shards: int = 1) -> None:
        self._plan = plan
        self._identity = identity
        self._folder = Path(plan.state)
        self._shard = shard
        self._shards = shards
        self._views = Views(plan, demand.relations)
        self._store: Store | None = None

    def open(self, generation: int) -> str:
        """Takes this shard over, if it is not open; returns its lineage.

        The first shard is to be opened first: it shares the state out anew if that lies in another number of shards.

        Raises:
            Fenced: a later run has it.
            Unavailable: its disk does not answer.
        """
        if self._store is None:
            if self._shard == 0:
                arrange(self._folder, self._shards, partial(self._open, generation))
            self._store = self._open(generation, self._folder / str(self._shards) / str(self._shard), self._shards)
            if self._shard == 0:
                discard_others(self._folder, self._shards)
        return self._store.lineage

    def _open(self, generation: int, folder: Path, shards: int) -> Store:
        names = [trace.name for trace in self._views.traces]
        came = enter(folder, names)
        store = Store.open(
            folder / "traces",
            generation=generation,
            identity=self._identity,
            traces=self._views.traces,
            limits=Limits(state_bytes=int(self._plan.limits.get("state_bytes", Limits().state_bytes)) // shards),
        )
        if any(self._views.kept(store.note(version)) & came for version in store.versions()):
            # Another run dropped them meanwhile: what sinks hold of them cannot be gone on from.
            store.reset()
        entered(folder, names)
        return store

    def fits(self, cuts: Iterable[Cut | None]) -> bool:
        """Whether some sink can go on from what is kept, or nothing is kept; if not, the state is emptied."""
        if go_on_from([self.versions()], cuts):
            return True
        self.reset()
        return False

    def versions(self) -> tuple[int, ...]:
        """Numbers of the cuts that this shard is kept for."""
        return self._opened().versions()

    def reset(self) -> None:
        """Forgets everything in this shard, durably."""
        self._opened().reset()

    def keep(self, cuts: Collection[int]) -> None:
        """No sink will go on from any other cut than these."""
        if self._store is not None:
            self._store.keep(cuts)

    def reports(self) -> tuple[StateReport, ...]:
        """What is held, for people; empty while the state is not open."""
        store = self._store
        if store is None:
            return ()
        totals = store.totals()
        versions = store.versions()
        return (
            StateReport(
                folder=str(store.path.parent),
                host=socket.gethostname(),
                pid=os.getpid(),
                lineage=store.lineage,
                cut=max(versions, default=None),
                versions=len(versions),
                bytes=store.bytes,
                limit=store.limits.state_bytes,
                steps=_added_up(totals, self._views.steps),
                inputs=_added_up(totals, self._views.held_inputs),
            ),
        )

    def begin(self, after: Cut | None, upto: Cut, needs: Needs, exchange: Exchange = ALONE) -> ShardEpoch:
        """Starts an epoch.

        Args:
            after: Cut that the sinks hold.
            upto: Cut that they will hold.
            needs: What they need.
            exchange: With the other shards.

        Raises:
            StateLost: there is no state to go on from, and the sinks need it.
        """
        with self._mended():
            return _Guarded(self._views.begin(self._opened(), after, upto, needs, exchange), self)

    def close(self) -> None:
        """Ends steps and state; idempotent."""
        self._views.close()
        self._drop()

    @contextmanager
    def _mended(self) -> Iterator[None]:
        """After a failure of its disk the state is opened again, as it is then; damaged state is begun anew."""
        try:
            yield
        except (Unavailable, OutcomeUnknown):
            self._drop()
            raise
        except StateLost as error:
            if error.fields.get("damaged"):
                self._opened().reset()
            self._drop()
            raise

    def _drop(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _opened(self) -> Store:
        if self._store is None:
            raise InvariantBroken("The state is not open.")
        return self._store


def _added_up(totals: Mapping[str, TraceTotals], owners: Mapping[str, str]) -> dict[str, TraceTotals]:
    """Totals of traces by those whose they are."""
    made: dict[str, TraceTotals] = {}
    for trace, owner in owners.items():
        made[owner] = made.get(owner, TraceTotals()).plus(totals[trace])
    return made


class _Guarded:
    """An epoch whose failures the state is mended after."""

    def __init__(self, epoch: ShardEpoch, state: Stateful) -> None:
        self._epoch = epoch
        self._state = state

    def take_in(self, portion: Portion) -> None:
        """See ``ShardEpoch``."""
        self._epoch.take_in(portion)

    def feed(self, relation: str, batch: ChangeBatch) -> None:
        """See ``StateEpoch``."""
        self._epoch.feed(relation, batch)

    def finish(self) -> Iterator[Output]:
        """See ``StateEpoch``."""
        with self._state._mended():
            faults.point("epoch.views.before")
            yield from self._epoch.finish()
            faults.point("epoch.views.after")

    def abort(self) -> None:
        """See ``StateEpoch``."""
        self._epoch.abort()


class StatefulExecutor:
    """An executor that adds what stateful steps make for the sinks of an epoch.

    Args:
        inner: Makes what is streamed.
        begin: Begins an epoch of the state, wherever that is.
        inputs: Relations that the state takes.
        wanted: Relations that the sinks take.
        needs: What they need of the state.
    """

    def __init__(
        self, inner: Executor, begin: Begin, inputs: frozenset[str], wanted: frozenset[str], needs: Needs
    ) -> None:
        self._inner = inner
        self._begin = begin
        self._inputs = inputs
        self._wanted = wanted
        self._needs = needs
        self._seconds = 0.0
        self.name = inner.name

    @property
    def rows(self) -> int:
        """See ``Executor``."""
        return self._inner.rows

    @property
    def seconds(self) -> Mapping[str, float]:
        """See ``Executor``."""
        return {**self._inner.seconds, "views": self._seconds}

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[Output | None]:
        """What the inner executor makes, then what the stateful steps make of it; then their state is durable."""
        epoch = self._begin(after, upto, self._needs)
        try:
            for output in self._inner.outputs(after, upto):
                if output is None:
                    yield None
                    continue
                relation, batch = output
                if relation in self._inputs:
                    epoch.feed(relation, batch)
                yield output if relation in self._wanted else None
            yield None
            made = epoch.finish()
            while True:
                began = time.perf_counter()
                output = next(made, None)
                self._seconds += time.perf_counter() - began
                if output is None:
                    break
                yield output
        finally:
            epoch.abort()
