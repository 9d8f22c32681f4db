"""Where a reader stands in its topics, as the text that the log keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raypipe.errors import InvariantBroken
from raypipe.sources.debezium.repeats import Seen
from raypipe.sources.debezium.shape import Shape


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a reader stands in the topic of a table.

    Attributes:
        id: That Kafka gave the topic when it was made.
        at: For each partition the offset of the next message.
        shape: Columns and key.
        version: Of the shape.
        until: For each partition where the load that goes on ends, None if the table is loaded.
        deleted: For partitions whose last message was a delete: digest of its key.
        seen: For each partition what may be told again; empty if nothing may.
        parked: Rows in quarantine, None if there never was one.
    """

    id: str
    at: tuple[int, ...]
    shape: Shape
    version: int = 1
    until: tuple[int, ...] | None = None
    deleted: Mapping[int, str] = field(default_factory=dict)
    seen: tuple[Seen | None, ...] = ()
    parked: int | None = None


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in each of a source's topics.

    Attributes:
        number: Counts the pieces that were read.
        places: By table; one that is not among them has yet to be loaded.
        transactions: The same of the source's transactions (``Transactions.parts``), if cuts lie between them.
    """

    number: int = 0
    places: Mapping[str, Place] = field(default_factory=dict)
    transactions: Mapping[str, Any] | None = None

    def to_text(self) -> str:
        """Compact JSON; ``parse`` reads it back."""
        topics = {table: _parts(place) for table, place in self.places.items()}
        parts: dict[str, Any] = {"number": self.number, "topics": topics}
        if self.transactions is not None:
            parts["transactions"] = self.transactions
        return json.dumps(parts, sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads what ``to_text`` wrote.

        Raises:
            InvariantBroken: it is no position of such a source.
        """
        try:
            parts = json.loads(text)
            return cls(
                number=int(parts["number"]),
                places={table: _place(each) for table, each in parts["topics"].items()},
                transactions=parts.get("transactions"),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvariantBroken("The log's position is not one of a source over topics.", cause=error) from error


def _parts(place: Place) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "id": place.id,
        "at": list(place.at),
        "shape": place.shape.parts(),
        "version": place.version,
    }
    if place.until is not None:
        parts["until"] = list(place.until)
    if place.deleted:
        parts["deleted"] = {str(partition): digest for partition, digest in place.deleted.items()}
    if any(place.seen):
        parts["seen"] = [None if each is None else each.parts() for each in place.seen]
    if place.parked is not None:
        parts["parked"] = place.parked
    return parts


def _place(parts: Mapping[str, Any]) -> Place:
    until = parts.get("until")
    return Place(
        id=parts["id"],
        at=tuple(parts["at"]),
        shape=Shape.of_parts(parts["shape"]),
        version=int(parts["version"]),
        until=None if until is None else tuple(until),
        deleted={int(partition): digest for partition, digest in parts.get("deleted", {}).items()},
        seen=tuple(None if each is None else Seen.of_parts(each) for each in parts.get("seen", ())),
        parked=parts.get("parked"),
    )
