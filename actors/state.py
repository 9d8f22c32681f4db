"""The state actor, which owns what stateful steps remember, and the stand-in for it in the consumer's process."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import ray

from actors.asking import answer
from raypipe.errors import OutcomeUnknown
from raypipe.local.demand import Demand
from raypipe.local.stateful import Output, StateEpoch, Stateful
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.steps import Needs

# What one answer of the actor holds at most, about: enough for a call's cost not to count.
ANSWER_BYTES = 4 << 20


@ray.remote(num_cpus=0, max_restarts=0)
class StateActor:
    """Hosts a ``Stateful``; started again by the crew, never by Ray.

    An epoch is known by a token: what a consumer that died had still sent does not get into that of its successor.

    Args:
        plan: What runs.
        identity: Of the log.
    """

    def __init__(self, plan: Plan, identity: str) -> None:
        self._state = Stateful(plan, Demand.of(plan), identity)
        self._token = ""
        self._epoch: StateEpoch | None = None
        self._made: Iterator[Output] | None = None

    def open(self, generation: int) -> str:
        """See ``Stateful.open``."""
        self._abort()
        return self._state.open(generation)

    def fits(self, cuts: Sequence[Cut | None]) -> bool:
        """See ``Stateful.fits``."""
        return self._state.fits(cuts)

    def keep(self, cuts: Collection[int]) -> None:
        """See ``Stateful.keep``."""
        self._state.keep(cuts)

    def begin(self, token: str, after: Cut | None, upto: Cut, needs: Needs) -> None:
        """Starts an epoch in place of any other."""
        self._abort()
        self._epoch = self._state.begin(after, upto, needs)
        self._token = token

    def feed(self, token: str, relation: str, batch: ChangeBatch) -> None:
        """See ``StateEpoch.feed``."""
        self._at_work(token).feed(relation, batch)

    def take(self, token: str) -> tuple[list[Output], bool]:
        """The next of what the epoch tells, and whether that was the last and the state is durable."""
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
            raise OutcomeUnknown("The state has turned to another epoch.")
        return self._epoch


class RemoteState:
    """The state actor as the consumer sees it.

    Args:
        actor: Handle.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, after: Cut | None, upto: Cut, needs: Needs) -> StateEpoch:
        """See ``Stateful.begin``; an error shows later."""
        return _RemoteEpoch(self._actor, after, upto, needs)


class _RemoteEpoch:
    """Calls keep their order, a few are under way at a time."""

    UNDER_WAY = 4

    def __init__(self, actor: Any, after: Cut | None, upto: Cut, needs: Needs) -> None:
        self._actor = actor
        self._token = uuid.uuid4().hex
        self._ended = False
        self._calls: deque[Any] = deque([actor.begin.remote(self._token, after, upto, needs)])

    def feed(self, relation: str, batch: ChangeBatch) -> None:
        """See ``StateEpoch``."""
        while len(self._calls) >= self.UNDER_WAY:
            self._wait()
        self._calls.append(self._actor.feed.remote(self._token, relation, batch))

    def finish(self) -> Iterator[Output]:
        """See ``StateEpoch``; the next answer is on its way while one is told."""
        while self._calls:
            self._wait()
        asked = self._actor.take.remote(self._token)
        while asked is not None:
            outputs, last = answer(asked, "The state")
            asked = None if last else self._actor.take.remote(self._token)
            yield from outputs
        self._ended = True

    def abort(self) -> None:
        """See ``StateEpoch``; not waited for."""
        if not self._ended:
            self._actor.abort.remote(self._token)

    def _wait(self) -> None:
        answer(self._calls.popleft(), "The state")
