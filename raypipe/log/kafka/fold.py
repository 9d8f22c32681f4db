"""Cuts by folding: the records of all writers up to one of them, in the topic's order, are the cut of its number.

A writer knows for certain only what it did itself, so its record says nothing of other instances. Committed records
come to every reader in the same order, that of their offsets; so whoever folds them gets the same cuts.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from raypipe.log.kafka.records import CutRecord, End, Mark, TopicEntry
from raypipe.model import Cut


@dataclass
class InstanceState:
    """One instance at some record: as appended, and as of its last transaction boundary."""

    records: int = 0
    generation: int = 0
    position: str | None = None
    cut_position: str | None = None
    cut_loading: tuple[str, ...] = ()
    ends: dict[str, End] = field(default_factory=dict)
    cut_ends: dict[str, End] = field(default_factory=dict)
    pending: tuple[Mark, ...] = ()  # beyond the last boundary
    pending_rows: int = 0
    place: int = 0


@dataclass
class Fold:
    """Everything that the records up to one of them say.

    Attributes:
        log: Identity of the log.
        number: Of the last record, 0 if there was none.
        instances: By name.
        loads: Topic to the offset of its newest TRUNCATE, kept or not.
        topics: Topics written to so far.
        rows: Covered by cuts.
        bytes: Covered by cuts.
        pending_bytes: Appended beyond them.
        at: Of the last record that was a cut.
    """

    log: str
    number: int = 0
    instances: dict[str, InstanceState] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)
    topics: dict[str, TopicEntry] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0
    pending_bytes: int = 0
    at: float = 0.0

    def apply(self, number: int, record: CutRecord) -> None:
        """Goes on by one record.

        Raises:
            ValueError: a record of the instance before this one is missing.
        """
        state = self.instances.setdefault(record.instance, InstanceState())
        if record.number != state.records + 1:
            raise ValueError(
                f"commit {record.number} of instance {record.instance} follows commit {state.records}: others are gone"
            )
        state.records = record.number
        state.generation = record.generation
        state.position = record.position
        state.place = record.place
        for mark in record.marks:
            state.ends.update(mark.ends)
            self.pending_bytes += mark.bytes
        self.loads.update(record.loads)
        self.topics.update(record.topics)
        state.pending += record.marks
        state.pending_rows += record.rows
        self.number = number
        if not record.boundary:
            return
        for mark in state.pending:
            state.cut_ends.update(mark.ends)
            self.bytes += mark.bytes
            self.pending_bytes -= mark.bytes
        self.rows += state.pending_rows
        state.pending, state.pending_rows = (), 0
        state.cut_position, state.cut_loading = record.position, record.loading
        self.at = record.at

    def segments(self, record: CutRecord) -> tuple[Mark, ...]:
        """What a record that is about to be applied brings into the cuts, in the order of appends."""
        if not record.boundary:
            return ()
        before = self.instances.get(record.instance, InstanceState())
        return before.pending + record.marks

    def cut(self) -> Cut:
        """The cut of the last record, which must have been one."""
        ends = {key: end[0] for state in self.instances.values() for key, end in state.cut_ends.items()}
        return Cut(
            number=self.number,
            log=self.log,
            offsets=dict(sorted(ends.items())),
            positions={
                name: state.cut_position
                for name, state in sorted(self.instances.items())
                if state.cut_position is not None
            },
            loading=tuple(sorted({table for state in self.instances.values() for table in state.cut_loading})),
            rows=self.rows,
            bytes=self.bytes,
            at=self.at,
        )

    def cut_ends(self) -> dict[str, End]:
        """End of every partition as of the last cut."""
        return {key: end for state in self.instances.values() for key, end in state.cut_ends.items()}

    def copy(self) -> Fold:
        """One that can go on by itself."""
        twin = copy.copy(self)
        twin.instances = {
            name: replace(state, ends=dict(state.ends), cut_ends=dict(state.cut_ends))
            for name, state in self.instances.items()
        }
        twin.loads = dict(self.loads)
        twin.topics = dict(self.topics)
        return twin


@dataclass(frozen=True, kw_only=True)
class Base:
    """What stays of the records that retention deleted.

    Attributes:
        fold: Of all records below the oldest kept.
        oldest: Number of the oldest cut kept, 0 if nothing was ever forgotten.
        forgotten: End of every partition as of that cut: messages below are gone.
        forgotten_bytes: In them.
    """

    fold: Fold
    oldest: int = 0
    forgotten: dict[str, End] = field(default_factory=dict)
    forgotten_bytes: int = 0

    def to_bytes(self) -> bytes:
        """JSON; ``from_bytes`` reads it back."""
        fold = self.fold
        fields = {
            "log": fold.log,
            "number": fold.number,
            "instances": {name: _state_fields(state) for name, state in fold.instances.items()},
            "loads": fold.loads,
            "topics": {name: [entry.id, entry.partitions] for name, entry in fold.topics.items()},
            "rows": fold.rows,
            "bytes": fold.bytes,
            "pending_bytes": fold.pending_bytes,
            "at": fold.at,
            "oldest": self.oldest,
            "forgotten": self.forgotten,
            "forgotten_bytes": self.forgotten_bytes,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Base:
        """Reads what ``to_bytes`` wrote."""
        fields = json.loads(content)
        fold = Fold(
            log=fields["log"],
            number=fields["number"],
            instances={name: _state(state) for name, state in fields["instances"].items()},
            loads=fields["loads"],
            topics={name: TopicEntry(id=entry[0], partitions=entry[1]) for name, entry in fields["topics"].items()},
            rows=fields["rows"],
            bytes=fields["bytes"],
            pending_bytes=fields["pending_bytes"],
            at=fields["at"],
        )
        return cls(
            fold=fold,
            oldest=fields["oldest"],
            forgotten=_ends(fields["forgotten"]),
            forgotten_bytes=fields["forgotten_bytes"],
        )


def _state_fields(state: InstanceState) -> dict[str, Any]:
    return {
        "records": state.records,
        "generation": state.generation,
        "position": state.position,
        "cut_position": state.cut_position,
        "cut_loading": list(state.cut_loading),
        "cut_ends": state.cut_ends,
        "pending": [[mark.bytes, mark.ends] for mark in state.pending],
        "pending_rows": state.pending_rows,
        "place": state.place,
    }


def _state(fields: dict[str, Any]) -> InstanceState:
    pending = tuple(Mark(bytes=size, ends=_ends(ends)) for size, ends in fields["pending"])
    cut_ends = _ends(fields["cut_ends"])
    ends = dict(cut_ends)
    for mark in pending:
        ends.update(mark.ends)
    return InstanceState(
        records=fields["records"],
        generation=fields["generation"],
        position=fields["position"],
        cut_position=fields["cut_position"],
        cut_loading=tuple(fields["cut_loading"]),
        ends=ends,
        cut_ends=cut_ends,
        pending=pending,
        pending_rows=fields["pending_rows"],
        place=fields["place"],
    )


def _ends(fields: dict[str, list[int]]) -> dict[str, End]:
    return {key: (end[0], end[1]) for key, end in fields.items()}


def segments_between(start: Fold, records: Iterator[tuple[int, CutRecord]], upto: int) -> Iterator[tuple[str, Mark]]:
    """What the cuts above ``start`` up to a number cover, in order: (instance, mark); moves ``start`` along."""
    for number, record in records:
        if number > upto:
            return
        for mark in start.segments(record):
            yield record.instance, mark
        start.apply(number, record)
