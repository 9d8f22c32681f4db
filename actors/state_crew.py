"""The state actors as the crew sees them: started, opened together, and started again when they die."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from actors.asking import ActorLost, answer, start_on
from actors.state import StateActor
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
        self._shards = int(plan.limits.get("state_shards", 1))
        self._keeping: list[Any] = []
        # None stands for one that died.
        self._actors: list[Any] = [self._start(shard) for shard in range(self._shards)]

    @property
    def handles(self) -> list[Any]:
        """Of all that live."""
        return [actor for actor in self._actors if actor is not None]

    def all(self) -> list[Any]:
        """Handles in the order of the shards.

        Raises:
            ActorLost: one of them died and is not opened again.
        """
        if len(self.handles) < self._shards:
            raise ActorLost("A shard of the state died; it is started again.")
        return self.handles

    def open(self, generation: int) -> str:
        """Opens all shards, in new actors for those that died; returns the lineage of the whole.

        Raises:
            ActorLost: one of them died meanwhile.
        """
        for shard, actor in enumerate(self._actors):
            if actor is None:
                self._actors[shard] = self._start(shard)
            elif self._shards > 1:
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
        asked = len(self._keeping)
        if not asked or len(ray.wait(self._keeping, num_returns=asked, timeout=0)[0]) == asked:
            self._keeping = [actor.keep.remote(set(cuts)) for actor in self.handles]

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
        with suppress(RayError):
            ray.kill(actor)
        self._actors = [None if each is actor else each for each in self._actors]
        self._keeping = []

    def _start(self, shard: int) -> Any:
        role = f"state:{shard}" if self._shards > 1 else "state"
        return start_on(self._node, StateActor, self._name(role), self._plan, self._identity, shard, self._shards)
