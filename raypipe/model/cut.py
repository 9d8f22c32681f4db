"""Cuts and claims: which part of the log is whole, and who may write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A state of the log that lies on a transaction boundary of every instance in it.

    Cuts of one log are totally ordered by ``number``; each covers all topics, so a sink's commit needs only one.

    Attributes:
        number: Place among the cuts of this log, from 1, growing, gaps allowed.
        log: Identity of the log (a UUID made with it): a number means nothing in another log.
        offsets: End offset (exclusive) of each topic; of a topic in several partitions, of each: the first is called by
            the topic's name, the others ``topic/1``, ``topic/2`` and so on.
        positions: Source position of each instance, opaque text of its connector.
        loading: Tables (``instance.table``) whose snapshot is not complete at this cut. Such a table stands for its
            rows up to the snapshot's cursor.
        rows: Row images appended to the log up to here.
        bytes: Bytes appended up to here.
        at: When the cut was committed, seconds since 1970 by the reader's clock.
    """

    number: int
    log: str
    offsets: Mapping[str, int]
    positions: Mapping[str, str]
    loading: tuple[str, ...] = ()
    rows: int = 0
    bytes: int = 0
    at: float = 0.0

    def to_json(self) -> str:
        """One line of JSON, for a sink's commit; ``from_json`` reads it back."""
        return json.dumps(
            {
                "number": self.number,
                "log": self.log,
                "offsets": dict(self.offsets),
                "positions": dict(self.positions),
                "loading": list(self.loading),
                "rows": self.rows,
                "bytes": self.bytes,
                "at": self.at,
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Cut:
        """Reads what ``to_json`` wrote."""
        fields = json.loads(text)
        fields["loading"] = tuple(fields["loading"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to write for a pipeline: a later run, or a later generation, takes it away.

    Attributes:
        pipeline: Its name.
        run: Counts the runs of the pipeline on this log; a new run fences all older ones.
        generation: Fencing number, growing over all runs; every (re)start of a writer takes the next one.
    """

    pipeline: str
    run: int
    generation: int
