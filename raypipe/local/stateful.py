"""The state of a run's stateful steps: where it lies, for which cuts it is kept, and what it makes of an epoch.

Each shard has a folder of its own, ``<state>/<number of shards>/<shard>``.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
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
from raypipe.local.preparing import Preparing
from raypipe.local.resharding import arrange, discard_others, discard_prepared, prepared, remove
from raypipe.local.saving import Saving
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.state import Limits, Store
from raypipe.steps import ALONE, Exchange, Needs, Views

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


# Begins an epoch: from which cut, to which, and what its sinks need.
Begin = Callable[[Cut | None, Cut, Needs], StateEpoch]


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
        self._preparing: Preparing | None = None
        self._removal: threading.Thread | None = None
        self._saving: Saving | None = None
        if plan.checkpoints:
            self._saving = Saving(plan.checkpoints, shard, shards, identity=identity, traces=self._views.traces)

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
            store = self._own(generation)
            self._store = store if self._saving is None else self._saving.filled(store, partial(self._own, generation))
            if self._shard == 0:
                gone = discard_others(self._folder, self._shards)
                # Files of gigabytes take a while, and nobody needs to wait for it.
                self._removal = threading.Thread(target=remove, args=(gone,), name="raypipe-removal", daemon=True)
                self._removal.start()
        return self._store.lineage

    def _own(self, generation: int) -> Store:
        return self._open(generation, self._folder / str(self._shards) / str(self._shard), self._shards)

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

    @property
    def lineage(self) -> str:
        """See ``StateStore``."""
        return self._opened().lineage

    def versions(self) -> tuple[int, ...]:
        """Numbers of the cuts that this shard is kept for."""
        return self._opened().versions()

    def saved(self) -> tuple[int, ...]:
        """Numbers of the cuts that it can be restored at from a checkpoint.

        Raises:
            Unavailable: the object store does not answer.
        """
        return self._saving.saved() if self._saving is not None else ()

    def restore(self, version: int) -> None:
        """Replaces what is kept by a checkpoint.

        Raises:
            StateLost: there is no such one that is whole.
            Unavailable: the object store or the disk does not answer.
        """
        assert self._saving is not None
        self._stop_preparing()
        store, self._store = self._opened(), None  # whatever happens, it is closed
        try:
            self._store = self._saving.restored(version, store)
        except StateLost:
            self._store = self._own(store.generation)
            raise

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """Begins to make a checkpoint, beside the work; reports say how it went.

        Args:
            version: Number of a cut that is kept.
            keep: Earlier ones that all shards have, and that stay.
        """
        if self._saving is not None and self._store is not None:
            self._saving.begin(self._store, version, keep)

    def prepare(self, shards: int) -> None:
        """Cuts what this shard holds for another number of shards, beside its work; reports say how far it is.

        Args:
            shards: That number; the present one to end it, and to remove what was cut.

        Raises:
            Unavailable: what was cut cannot be removed.
        """
        if shards == self._shards:
            self._stop_preparing()
            discard_prepared(self._folder, self._shards, self._shard)
        elif self._store is not None and (self._preparing is None or self._preparing.report().shards != shards):
            self._stop_preparing()
            self._preparing = Preparing(self._store, prepared(self._folder, shards, self._shards, self._shard), shards)

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
                checkpoints=self._saving.report() if self._saving is not None else None,
                reshard=self._preparing.report() if self._preparing is not None else None,
            ),
        )

    def begin(self, after: Cut | None, upto: Cut, needs: Needs, exchange: Exchange = ALONE) -> StateEpoch:
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
        if self._saving is not None:
            self._saving.close()
        if self._removal is not None:
            self._removal.join()
        self.leave()

    def let_go(self) -> None:
        """Others may have the state; ``open`` takes it again."""
        self._drop()

    def leave(self) -> None:
        """Ends steps and state, and waits for nothing that is done beside the work."""
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

    def _stop_preparing(self) -> None:
        if self._preparing is not None:
            self._preparing.stop()
            self._preparing = None

    def _drop(self) -> None:
        self._stop_preparing()
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

    def __init__(self, epoch: StateEpoch, state: Stateful) -> None:
        self._epoch = epoch
        self._state = state

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


def carry_state(inner: Executor, begin: Begin, inputs: frozenset[str], after: Cut, upto: Cut, last: int) -> None:
    """Carries the state alone from one cut to another; what it tells is for sinks that have it already.

    Args:
        inner: Makes what the state takes.
        begin: Begins an epoch of the state.
        inputs: Relations that it takes.
        after: Cut that it is kept for.
        upto: Cut that it is kept for afterwards, too.
        last: Number of the highest cut that a sink holds.
    """
    needs = Needs(wanted=frozenset(), awaited=frozenset(), carried=last)
    for _ in StatefulExecutor(inner, begin, inputs, frozenset(), needs).outputs(after, upto):
        pass


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
