"""How a person asks a run for another number of shards of its state: notes beside the log.

The request is of one run and stays until that run has answered it for good; a later run began with the number in its
pipeline file and removes it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum

RESHARD_REQUEST_NOTE = "reshard.request"
RESHARD_ANSWER_NOTE = "reshard.answer"


class Progress(Enum):
    """How far a run is."""

    CUTTING = "cutting"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class ReshardRequest:
    """What is asked for.

    Attributes:
        id: Of the request.
        run: Number of the run that is asked.
        shards: How many there shall be.
    """

    id: str
    run: int
    shards: int

    def to_json(self) -> str:
        """For the note."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ReshardRequest:
        """From the note."""
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class ReshardAnswer:
    """What the run says of it.

    Attributes:
        id: Of the request.
        progress: See ``Progress``.
        shards: That there are now.
        cut_bytes: Of all shards, so far.
        left_bytes: Known to be left.
        pause_s: For how long the sinks stood still.
        error: Why it failed.
    """

    id: str
    progress: Progress
    shards: int
    cut_bytes: int = 0
    left_bytes: int = 0
    pause_s: float = 0.0
    error: str = ""

    def to_json(self) -> str:
        """For the note."""
        return json.dumps(asdict(self) | {"progress": self.progress.value})

    @classmethod
    def from_json(cls, text: str) -> ReshardAnswer:
        """From the note."""
        fields = json.loads(text)
        return cls(**(fields | {"progress": Progress(fields["progress"])}))
