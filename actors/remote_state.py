"""The state as the consumer sees it: all of its shards at once."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from actors.asking import answer
from raypipe.local.stateful import Output, StateEpoch
from raypipe.model import ChangeBatch, Cut
from raypipe.steps import Needs


class RemoteState:
    """Stands for the state actors.

    Args:
        actors: Handles, in the order of the shards.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def begin(self, after: Cut | None, upto: Cut, needs: Needs) -> StateEpoch:
        """See ``Stateful.begin``; an error shows later."""
        return _RemoteEpoch(self._actors, after, upto, needs)


class _RemoteEpoch:
    """Calls keep their order, a few are under way at a time."""

    UNDER_WAY = 4

    def __init__(self, actors: Sequence[Any], after: Cut | None, upto: Cut, needs: Needs) -> None:
        self._actors = actors
        self._token = uuid.uuid4().hex
        self._ended = False
        if len(actors) > 1:
            # Before any of them begins: what one gives must not come before the other knows of the epoch.
            for told in [actor.expect.remote(self._token) for actor in actors]:
                answer(told, "The state")
        self._calls: deque[list[Any]] = deque()
        self._calls.append([actor.begin.remote(self._token, after, upto, needs, actors) for actor in actors])

    def feed(self, relation: str, batch: ChangeBatch) -> None:
        """See ``StateEpoch``; every shard takes its own rows out."""
        while len(self._calls) >= self.UNDER_WAY:
            self._wait(self._calls.popleft())
        given = ray.put(batch) if len(self._actors) > 1 else batch
        self._calls.append([actor.feed.remote(self._token, relation, given) for actor in self._actors])

    def finish(self) -> Iterator[Output]:
        """See ``StateEpoch``; the next answer is on its way while one is told."""
        while self._calls:
            self._wait(self._calls.popleft())
        first, *others = (actor.take.remote(self._token) for actor in self._actors)
        while first is not None:
            others = self._wait_for(first, others)
            outputs, last = answer(first, "The state")
            first = None if last else self._actors[0].take.remote(self._token)
            yield from outputs
        self._wait(others)
        self._ended = True

    def abort(self) -> None:
        """See ``StateEpoch``; not waited for."""
        if not self._ended:
            self._let_go()
            for actor in self._actors:
                actor.abort.remote(self._token)

    def _wait_for(self, first: Any, others: list[Any]) -> list[Any]:
        """Waits for the first shard, or for a failure of another one; returns the others that are still at work."""
        while not ray.wait([first], timeout=0)[0]:
            done, _ = ray.wait([first, *others], num_returns=1)
            others = [each for each in others if each not in done]
            self._wait([each for each in done if each is not first])
        return others

    def _wait(self, calls: Sequence[Any]) -> None:
        """Until all of them are answered; the first failure counts, and shards that wait for each other are let go."""
        pending = list(calls)
        try:
            while pending:
                done, pending = ray.wait(pending, num_returns=1)
                for each in done:
                    answer(each, "The state")
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        if len(self._actors) > 1:
            for actor in self._actors:
                actor.expect.remote("")
