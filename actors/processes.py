"""Which processes a run's actors live in: for whoever looks at them from outside, or ends one."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import RayError

# An actor answers between two calls of its coordinator; a commit that takes longer than this is worth giving up on.
PATIENCE_S = 5.0


def process_of(pipeline: str, role: str) -> int | None:
    """Process id of an actor on the cluster this process has joined; None if there is none, or it is too busy.

    Args:
        pipeline: Its name.
        role: Of the actor: ``sink:warehouse`` for a unit of commit, ``state``.
    """
    for name in ray.util.list_named_actors():
        owner, _, found = name.rpartition("/")
        if owner.startswith(f"{pipeline}/") and found.rpartition("#")[0] == role:
            try:
                process: int = ray.get(ray.get_actor(name).__ray_call__.remote(_own_process), timeout=PATIENCE_S)
            except (RayError, ValueError):
                continue  # it ended meanwhile
            return process
    return None


def _own_process(_: Any) -> int:
    return os.getpid()
