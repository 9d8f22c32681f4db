"""What every log says to a run that a later one has taken over from."""

from __future__ import annotations

from raypipe.errors import Fenced
from raypipe.model import Claim


def overtaken(held: Claim, later: int) -> Fenced:
    """By the run of that number."""
    return Fenced(
        f"Run {later} of pipeline {held.pipeline!r} has taken over from run {held.run}.",
        remedy="Nothing more of this run was written; let it end.",
        pipeline=held.pipeline,
        run=held.run,
        later=later,
    )
