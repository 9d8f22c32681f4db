"""The state actors, which own what stateful steps remember, a shard each."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from actors.asking import ActorLost, answer
from raypipe.contracts import StateReport
from raypipe.errors import OutcomeUnknown
from raypipe.local.demand import Demand
from raypipe.local.shards import Shards
from raypipe.local.stateful import Output, StateEpoch, Stateful
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.steps import ALONE, Exchange, Needs

# What one answer of the actor holds at most, about: enough for a call's cost not to count.
ANSWER_BYTES = 4 << 20
# How often a shard that waits for the others looks whether they are still there.
LOOK_S = 0.5


class Letterbox:
    """What the other shards of an epoch have sent to this one, and what they will."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._token = ""
        self._parcels: dict[tuple[int, int], Any] = {}

    def expect(self, token: str) -> None:
        """From now on takes parcels of this epoch and no other; whoever waits for those of another one fails."""
        with self._changed:
            if token != self._token:
                self._token = token
                self._parcels.clear()
            self._changed.notify_all()

    def put(self, token: str, number: int, shard: int, parcel: Any) -> None:
        """Takes what a shard gives in an exchange.

        Raises:
            OutcomeUnknown: another epoch is at work.
        """
        with self._changed:
            if token != self._token:
                raise _turned_away()
            self._parcels[number, shard] = parcel
            self._changed.notify_all()

    def take(self, token: str, number: int, shard: int, timeout_s: float) -> tuple[Any] | None:
        """What a shard gave in an exchange; None if it has not within this time.

        Raises:
            OutcomeUnknown: another epoch is at work.
        """
        with self._changed:
            self._changed.wait_for(lambda: token != self._token or (number, shard) in self._parcels, timeout_s)
            if token != self._token:
                raise _turned_away()
            return (self._parcels.pop((number, shard)),) if (number, shard) in self._parcels else None


def _turned_away() -> OutcomeUnknown:
    return OutcomeUnknown("The state has turned to another epoch.")


class ActorPost:
    """See ``local.shards.Post``: parcels go from actor to actor.

    Args:
        token: Of the epoch.
        shard: Number of this one.
        actors: Of all shards.
        letterbox: Of this one.
    """

    def __init__(self, token: str, shard: int, actors: Sequence[Any], letterbox: Letterbox) -> None:
        self._token = token
        self._shard = shard
        self._actors = actors
        self._letterbox = letterbox
        self._number = 0

    def swap(self, parcels: Sequence[Any]) -> list[Any]:
        """See ``Post``."""
        number, self._number = self._number, self._number + 1
        others = [shard for shard in range(len(parcels)) if shard != self._shard]
        sent = {
            shard: self._actors[shard].put.remote(self._token, number, self._shard, parcels[shard]) for shard in others
        }
        came = list(parcels)
        for shard in others:
            came[shard] = self._await(number, shard, sent[shard])
        return came

    def _await(self, number: int, shard: int, sent: Any) -> Any:
        while True:
            found = self._letterbox.take(self._token, number, shard, LOOK_S)
            if found is not None:
                return found[0]
            if ray.wait([sent], timeout=0)[0]:
                try:
                    answer(sent, "A shard of the state")
                except ActorLost as lost:
                    raise OutcomeUnknown("Another shard of the state is gone.", cause=lost) from lost


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"post": 1})
class StateActor:
    """Hosts a shard of a ``Stateful``; started again by the crew, never by Ray.

    An epoch is known by a token: what a consumer that died had still sent does not get into that of its successor.

    Args:
        plan: What runs.
        identity: Of the log.
        shard: Which part of the state this is.
        shards: Of how many.
    """

    def __init__(self, plan: Plan, identity: str, shard: int, shards: int) -> None:
        self._state = Stateful(plan, Demand.of(plan), identity, shard=shard, shards=shards)
        self._shard = shard
        self._letterbox = Letterbox()
        self._token = ""
        self._epoch: StateEpoch | None = None
        self._made: Iterator[Output] | None = None

    def open(self, generation: int) -> str:
        """See ``Stateful.open``."""
        self._abort()
        return self._state.open(generation)

    def versions(self) -> tuple[int, ...]:
        """See ``Stateful.versions``."""
        return self._state.versions()

    def saved(self) -> tuple[int, ...]:
        """See ``Stateful.saved``."""
        return self._state.saved()

    def restore(self, version: int) -> str:
        """See ``Stateful.restore``; returns its lineage."""
        self._abort()
        self._state.restore(version)
        return self._state.lineage

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """See ``Stateful.checkpoint``."""
        self._state.checkpoint(version, keep)

    def prepare(self, shards: int) -> None:
        """See ``Stateful.prepare``."""
        self._state.prepare(shards)

    def leave(self) -> None:
        """See ``Stateful.leave``."""
        self._abort()
        self._state.leave()

    def reset(self) -> None:
        """See ``Stateful.reset``."""
        self._abort()
        self._state.reset()

    def keep(self, cuts: Collection[int]) -> None:
        """See ``Stateful.keep``."""
        self._state.keep(cuts)

    @ray.method(concurrency_group="post")  # type: ignore[untyped-decorator]
    def expect(self, token: str) -> None:
        """See ``Letterbox.expect``; answers also while an epoch is at work."""
        self._letterbox.expect(token)

    @ray.method(concurrency_group="post")  # type: ignore[untyped-decorator]
    def put(self, token: str, number: int, shard: int, parcel: Any) -> None:
        """See ``Letterbox.put``; answers also while an epoch is at work."""
        self._letterbox.put(token, number, shard, parcel)

    def begin(self, token: str, after: Cut | None, upto: Cut, needs: Needs, actors: Sequence[Any]) -> None:
        """Starts an epoch in place of any other, together with the other shards."""
        self._abort()
        exchange: Exchange = ALONE
        if len(actors) > 1:
            post = ActorPost(token, self._shard, actors, self._letterbox)
            exchange = Shards(self._shard, len(actors), post)
        self._epoch = self._state.begin(after, upto, needs, exchange)
        self._token = token

    def feed(self, token: str, relation: str, batch: ChangeBatch) -> None:
        """See ``StateEpoch.feed``."""
        self._at_work(token).feed(relation, batch)

    def take(self, token: str) -> tuple[list[Output], bool]:
        """The next of what the epoch tells, and whether that was the last and this shard's state is durable."""
        epoch = self._at_work(token)
        if self._made is None:
            self._made = epoch.finish()
        taken: list[Output] = []
        size = 0
        for relation, batch in self._made:
            taken.append((relation, batch))
            size += batch.rows.nbytes
            if size >= ANSWER_BYTES:
                return taken, False
        self._abort()
        return taken, True

    def abort(self, token: str) -> None:
        """Throws the epoch away, if it is at work."""
        if token == self._token:
            self._abort()

    def reports(self) -> tuple[StateReport, ...]:
        """See ``Stateful.reports``; with the name under which the dashboard shows this actor."""
        name = ray.get_runtime_context().get_actor_name() or ""
        return tuple(replace(report, actor=name) for report in self._state.reports())

    def close(self) -> None:
        """Ends steps and state."""
        self._abort()
        self._state.close()

    def _abort(self) -> None:
        if self._epoch is not None:
            self._epoch.abort()
        self._epoch = self._made = None
        self._token = ""

    def _at_work(self, token: str) -> StateEpoch:
        if self._epoch is None or token != self._token:
            raise _turned_away()
        return self._epoch
