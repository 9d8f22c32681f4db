"""Starting and asking actors: raypipe's own errors come back as they are, a dead actor as something to be mended."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.errors import InvariantBroken, OutcomeUnknown, RaypipeError

# An actor that does not answer for so long is taken for lost; its successor fences it, should it still be at work.
PATIENCE_S = 600.0


class ActorLost(OutcomeUnknown):
    """An actor died, or nobody knows: what it was doing may or may not have happened."""


def start(actor: Any, name: str, *arguments: object) -> Any:
    """Starts an actor under a name that tells the dashboard whose it is; returns its handle at once."""
    return actor.options(name=name).remote(*arguments)


def start_on(node: str, actor: Any, name: str, *arguments: object) -> Any:
    """Starts an actor on a node, or elsewhere if that one is gone; returns its handle at once."""
    there = NodeAffinitySchedulingStrategy(node_id=node, soft=True)
    return actor.options(name=name, scheduling_strategy=there).remote(*arguments)


def answer(reference: Any, what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Waits for an actor's answer.

    Args:
        reference: Of the call.
        what: The actor, for messages.
        timeout_s: At most.

    Raises:
        ActorLost: it died or does not answer.
        RaypipeError: what it raised itself.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RaypipeError):
            raise cause from None
        raise InvariantBroken(f"{what} failed unexpectedly: {_last_line(error)}", cause=cause) from None
    except (RayActorError, ActorDiedError) as error:
        raise ActorLost(f"{what} died; it is started again.", cause=error) from None
    except GetTimeoutError as error:
        raise ActorLost(f"{what} has not answered for {timeout_s:.0f} s; it is started again.", cause=error) from None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
