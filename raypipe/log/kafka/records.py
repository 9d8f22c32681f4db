"""The records of the cuts topic: what one commit of one writer adds to the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

# Of records and messages; another raypipe's are refused, not guessed at.
FORMAT = 1

# End of a partition: the offset after its last message, and how many messages of this log it holds.
End = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A place between two appends of a commit, where a slice may end.

    Attributes:
        ends: Of the partitions that grew since the mark before, by key.
        bytes: Appended since the mark before.
    """

    ends: Mapping[str, End]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TopicEntry:
    """How a topic was made.

    Attributes:
        id: Kafka's; a topic that is made anew under the same name has another.
        partitions: That rows are spread over; what others add later stays unused.
    """

    id: str
    partitions: int


@dataclass(frozen=True, kw_only=True)
class CutRecord:
    """One commit.

    Attributes:
        instance: Of the writer.
        generation: Of the writer.
        number: Counts the commits of the instance, from 1; a gap is damage.
        boundary: It ends on a transaction boundary of the instance, so it is a cut.
        position: Of the instance afterwards.
        loading: Tables of the instance still loading.
        marks: What was appended, in order, in parts; the last one ends where the commit does.
        rows: Row images appended.
        place: Of the next append, counted over all topics of the instance.
        loads: Topic to the offset (in its first partition) of its newest TRUNCATE, of the topics that got one.
        topics: Topics that this commit is the first to write to.
        at: Seconds since 1970 by the writer's clock.
    """

    instance: str
    generation: int
    number: int
    boundary: bool
    position: str
    loading: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    rows: int = 0
    place: int = 0
    loads: Mapping[str, int] = field(default_factory=dict)
    topics: Mapping[str, TopicEntry] = field(default_factory=dict)
    at: float = 0.0

    def to_bytes(self) -> bytes:
        """JSON, readable by people; ``from_bytes`` reads it back."""
        fields = {
            "format": FORMAT,
            "instance": self.instance,
            "generation": self.generation,
            "number": self.number,
            "boundary": self.boundary,
            "position": self.position,
            "loading": list(self.loading),
            "marks": [[mark.bytes, mark.ends] for mark in self.marks],
            "rows": self.rows,
            "place": self.place,
            "loads": dict(self.loads),
            "topics": {name: [entry.id, entry.partitions] for name, entry in self.topics.items()},
            "at": self.at,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> CutRecord:
        """Reads what ``to_bytes`` wrote.

        Raises:
            ValueError, LookupError, TypeError: these bytes are no such record.
        """
        fields = json.loads(content)
        if fields["format"] != FORMAT:
            raise ValueError(f"record format {fields['format']}, this raypipe reads {FORMAT}")
        return cls(
            instance=fields["instance"],
            generation=fields["generation"],
            number=fields["number"],
            boundary=fields["boundary"],
            position=fields["position"],
            loading=tuple(fields["loading"]),
            marks=tuple(
                Mark(bytes=size, ends={key: (end[0], end[1]) for key, end in ends.items()})
                for size, ends in fields["marks"]
            ),
            rows=fields["rows"],
            place=fields["place"],
            loads=fields["loads"],
            topics={name: TopicEntry(id=entry[0], partitions=entry[1]) for name, entry in fields["topics"].items()},
            at=fields["at"],
        )
