"""The state actors as the crew sees them: started, opened together, and started again when they die."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from actors.asking import ActorLost, answer, start_on
from actors.state import StateActor
from raypipe.errors import RaypipeError
from raypipe.plan.model import Plan
from raypipe.state import lineage_of


class StateCrew:
    """One actor for each shard.

    Args:
        plan: What runs.
        identity: Of the log.
        node: Where the state's folder is.
        name: Makes an actor's name of its role.
    """

    def __init__(self, plan: Plan, identity: str, node: str, name: Callable[[str], str]) -> None:
        self._plan = plan
        self._identity = identity
        self._node = node
        self._name = name
        self._keeping: list[Any] = []
        self._preparing: list[Any] = []
        self._wanted = plan.state_shards  # what the shards were last told to prepare for
        self._next: list[Any] = []  # actors for another number of shards, started beforehand
        self._starting: list[Any] = []  # what they answer once they have
        self.shards = plan.state_shards
        # None stands for one that died.
        self._actors: list[Any] = self._started(self.shards)

    @property
    def handles(self) -> list[Any]:
        """Of all that live."""
        return [actor for actor in self._actors if actor is not None]

    @property
    def waiting(self) -> list[Any]:
        """Of actors that are to take over."""
        return self._next

    def all(self) -> list[Any]:
        """Handles in the order of the shards.

        Raises:
            ActorLost: one of them died and is not opened again.
        """
        if len(self.handles) < self.shards:
            raise ActorLost("A shard of the state died; it is started again.")
        return self.handles

    def open(self, generation: int) -> str:
        """Opens all shards, in new actors for those that died; returns the lineage of the whole.

        Raises:
            ActorLost: one of them died meanwhile.
        """
        for shard, actor in enumerate(self._actors):
            if actor is None:
                self._actors[shard] = self._start(shard, self.shards)
            elif self.shards > 1:
                actor.expect.remote("")  # it may wait for one that died
        # The first one before the others: it may have to share the state out anew.
        lineages = self._ask(self._actors[:1], "open", generation) + self._ask(self._actors[1:], "open", generation)
        return lineage_of(lineages)

    def versions(self) -> list[tuple[int, ...]]:
        """See ``fitting.Shards``; this and the next raise ``ActorLost`` if one of the actors died."""
        return self._ask(self._actors, "versions")

    def saved(self) -> list[tuple[int, ...]]:
        """See ``fitting.Shards``."""
        return self._ask(self._actors, "saved")

    def restore(self, version: int) -> str:
        """See ``fitting.Shards``."""
        return lineage_of(self._ask(self._actors, "restore", version))

    def reset(self) -> None:
        """See ``fitting.Shards``."""
        self._ask(self._actors, "reset")

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """See ``Stateful.checkpoint``; what becomes of it, reports say."""
        for actor in self.handles:
            actor.checkpoint.remote(version, keep)

    def keep(self, cuts: Collection[int]) -> None:
        """Passes it on, unless the last time is not answered yet."""
        if _answered(self._keeping):
            self._keeping = [actor.keep.remote(set(cuts)) for actor in self.handles]

    def prepare(self, shards: int) -> bool:
        """See ``Stateful.prepare``; also starts actors for another number, and says whether they are there.

        What the shards have done meanwhile, reports say.
        """
        if shards != self._wanted or _answered(self._preparing):
            self._wanted = shards
            self._preparing = [actor.prepare.remote(shards) for actor in self.handles]
        if shards == self.shards:
            self._dismiss()
            return False
        if len(self._next) != shards:
            self._dismiss()
            self._next = self._started(shards)
            self._starting = [actor.reports.remote() for actor in self._next]
        return _answered(self._starting)

    def reshard(self, shards: int, generation: int) -> str:
        """Ends the actors that there are, and opens others on what they held; returns the lineage of the whole.

        Raises:
            ActorLost: one of them died, and its successor too. The number is as before, and ``open`` is to be called.
            RaypipeError: the state cannot be shared out; likewise.
        """
        before = self.shards
        self._starting, former = [], self.handles
        with suppress(ActorLost):  # what it held is on the disk
            self._ask(self._actors, "leave")
        self._kill(former)
        self._actors, self._next = self._next or self._started(shards), []
        self.shards, self._keeping, self._preparing = shards, [], []
        try:
            with suppress(ActorLost):
                return self.open(generation)
            return self.open(generation)
        except RaypipeError:
            self._kill(self.handles)
            self.shards, self._actors = before, [None] * before
            raise

    def _dismiss(self) -> None:
        self._kill(self._next)
        self._next, self._starting = [], []

    def _ask(self, actors: Sequence[Any], method: str, *arguments: object) -> list[Any]:
        asked = [(actor, getattr(actor, method).remote(*arguments)) for actor in actors if actor is not None]
        answers, lost = [], None
        for actor, reference in asked:
            try:
                answers.append(answer(reference, "The state"))
            except ActorLost as error:
                lost = error
                self._lose(actor)
        if lost is not None:
            raise lost
        return answers

    def _lose(self, actor: Any) -> None:
        self._kill([actor])
        self._actors = [None if each is actor else each for each in self._actors]
        self._keeping = self._preparing = []

    def _started(self, shards: int) -> list[Any]:
        return [self._start(shard, shards) for shard in range(shards)]

    def _start(self, shard: int, shards: int) -> Any:
        role = f"state:{shard}" if shards > 1 else "state"
        return start_on(self._node, StateActor, self._name(role), self._plan, self._identity, shard, shards)

    @staticmethod
    def _kill(actors: Sequence[Any]) -> None:
        for actor in actors:
            with suppress(RayError):
                ray.kill(actor)


def _answered(calls: Sequence[Any]) -> bool:
    """Whether all of them are."""
    return not calls or len(ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]) == len(calls)
