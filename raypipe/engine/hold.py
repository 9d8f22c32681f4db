"""How a verifier and a run agree on a cut: the source's position becomes one, and every sink comes to rest at it.

The two talk through notes beside the log, so it works across processes and machines, whatever runs the pipeline:

1. The verifier asks: ``hold``. The run stops its readers between two source transactions and answers ``held``.
2. The verifier opens a read transaction on each source; its positions are at or after the readers'. It asks:
   ``cut`` at these positions. The readers go on exactly up to them; the run answers with the cut that lies there, lets
   the readers run on, but no epoch crosses the cut. When every sink holds it, the run answers ``ready``.
3. The verifier compares, then asks ``release`` (removes its note). A request that is not renewed expires.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum

REQUEST_NOTE = "verify.request"
ANSWER_NOTE = "verify.answer"
# A verifier renews its request more often than this; one that died holds a pipeline up no longer.
EXPIRES_S = 15.0


class Phase(Enum):
    """What the verifier wants now."""

    HOLD = "hold"
    CUT = "cut"


@dataclass(frozen=True, kw_only=True)
class HoldRequest:
    """The verifier's side.

    Attributes:
        id: Of the verification.
        phase: See ``Phase``.
        positions: By instance; in phase CUT.
        renewed_at: Seconds since 1970.
    """

    id: str
    phase: Phase
    positions: Mapping[str, str] = field(default_factory=dict)
    renewed_at: float = 0.0

    def expired(self, now: float) -> bool:
        """Whether the verifier has gone silent."""
        return now - self.renewed_at > EXPIRES_S

    def to_json(self) -> str:
        """For the note."""
        return json.dumps(asdict(self) | {"phase": self.phase.value})

    @classmethod
    def from_json(cls, text: str) -> HoldRequest:
        """From the note."""
        fields = json.loads(text)
        return cls(**(fields | {"phase": Phase(fields["phase"])}))


@dataclass(frozen=True, kw_only=True)
class HoldAnswer:
    """The run's side.

    Attributes:
        id: Of the request it answers.
        held: Readers stand still.
        cut: Number of the cut at the positions asked for; None until it is there.
        ready: Every sink holds that cut and rests.
    """

    id: str
    held: bool = False
    cut: int | None = None
    ready: bool = False

    def to_json(self) -> str:
        """For the note."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HoldAnswer:
        """From the note."""
        return cls(**json.loads(text))
