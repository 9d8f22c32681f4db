"""What a version of the state says of itself: how far each input is loaded, and what its traces hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass
class Progress:
    """What a version of the state says of itself, in its note.

    Attributes:
        loaded: Branches whose load has begun, by trace of the input.
        live: Fingerprints of the views that have told what they hold.
        held: Names of the operators' traces that hold what they should.
        again: Relations that are told whole when somebody goes on from this version: what it holds of them was computed
            a second time, and may differ from what the sinks were told in the last bits of floating point numbers.
        again_until: Number of the highest cut that a sink held then; versions up to there are such ones.
    """

    loaded: dict[str, frozenset[int]] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    again: frozenset[str] = frozenset()
    again_until: int = 0

    def to_json(self) -> str:
        """One line; ``from_json`` reads it back."""
        loaded = {name: sorted(branches) for name, branches in sorted(self.loaded.items())}
        again = {"again": sorted(self.again), "again_until": self.again_until} if self.again else {}
        return json.dumps({"loaded": loaded, "live": sorted(self.live), "held": sorted(self.held), **again})

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Reads what ``to_json`` wrote."""
        fields = json.loads(text)
        loaded = {name: frozenset(branches) for name, branches in fields["loaded"].items()}
        return cls(
            loaded,
            set(fields["live"]),
            set(fields.get("held", ())),  # an older raypipe had other traces, and held none of these
            frozenset(fields.get("again", ())),
            fields.get("again_until", 0),
        )
