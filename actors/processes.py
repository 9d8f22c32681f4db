"""Which processes a run's sink actors live in: for whoever looks at them from outside, or ends one."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import RayError

# An actor answers between two calls of its coordinator; a commit that takes longer than this is worth giving up on.
PATIENCE_S = 5.0


def process_of_sink(pipeline: str, sink: str) -> int | None:
    """Process id of a sink's actor on the cluster this process has joined; None if there is none, or it is too busy.

    Args:
        pipeline: Its name.
        sink: A unit of commit.
    """
    for name in ray.util.list_named_actors():
        owner, _, role = name.rpartition("/")
        if owner.startswith(f"{pipeline}/") and role.rpartition("#")[0] == f"sink:{sink}":
            try:
                process: int = ray.get(ray.get_actor(name).__ray_call__.remote(_own_process), timeout=PATIENCE_S)
            except (RayError, ValueError):
                continue  # it ended meanwhile
            return process
    return None


def _own_process(_: Any) -> int:
    return os.getpid()
