"""A table that is read: where its reader stands, and what was fetched of it and not told yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Message

from raypipe.sources.debezium.fetch import Run
from raypipe.sources.debezium.parse import Format, Parser
from raypipe.sources.debezium.peel import Peeler
from raypipe.sources.debezium.position import Place
from raypipe.sources.debezium.repeats import Seen, sift
from raypipe.sources.debezium.shape import Shape
from raypipe.sources.debezium.topics import stamps_of

# Of a chunk: how many of its messages may be told.
Prefix = Callable[[pa.Table], int]


@dataclass(kw_only=True)
class Following:
    """A table that is read.

    Attributes:
        table: As the pipeline file writes it.
        topic: Its topic.
        id: That Kafka gave the topic.
        at: For each partition the offset of the next message to tell.
        shape: Of its rows.
        whole_before: ``before`` holds the whole row.
        version: Of the shape.
        until: Where its load ends, None if it is loaded.
        deleted: See ``Place``.
        seen: See ``Place``.
        parked: See ``Place``.
        restart: It is to be loaded from the topic's beginning.
        fetched: For each partition the offset of the next message to fetch.
        waiting: For each partition chunks (``parse``) that were fetched and not told.
    """

    table: str
    topic: str
    id: str
    at: list[int]
    shape: Shape
    whole_before: bool
    version: int = 1
    until: tuple[int, ...] | None = None
    deleted: dict[int, str] = field(default_factory=dict)
    seen: list[Seen | None] = field(default_factory=list)
    parked: int | None = None
    restart: bool = False
    fetched: list[int] = field(default_factory=list)
    waiting: list[deque[pa.Table]] = field(default_factory=list)
    peeler: Peeler = field(default_factory=Peeler)
    key_peeler: Peeler = field(default_factory=Peeler)

    def __post_init__(self) -> None:
        self.seen = self.seen or [None] * len(self.at)
        self.forget()

    @property
    def loaded(self) -> bool:
        """Whether a load has reached its end, and nobody was told yet."""
        return self.until is not None and all(at >= end for at, end in zip(self.at, self.until, strict=True))

    @property
    def format(self) -> Format:
        """Of its messages."""
        return Format(topic=self.topic, shape=self.shape, whole_before=self.whole_before)

    @property
    def waiting_bytes(self) -> list[int]:
        """For each partition."""
        return [sum(chunk.nbytes for chunk in chunks) for chunks in self.waiting]

    @property
    def place(self) -> Place:
        """For the position."""
        return Place(
            id=self.id,
            at=tuple(self.at),
            shape=self.shape,
            version=self.version,
            until=self.until,
            deleted=dict(self.deleted),
            seen=tuple(self.seen),
            parked=self.parked,
        )

    def forget(self) -> None:
        """What was fetched and not told is to be fetched again."""
        self.fetched = list(self.at)
        self.waiting = [deque() for _ in self.at]

    def begin(self, at: tuple[int, ...], until: tuple[int, ...]) -> None:
        """Begins a load."""
        self.at, self.until, self.restart = list(at), until, False
        self.deleted.clear()
        self.seen = [None] * len(at)
        self.forget()

    def add(self, run: Run, payloads: pa.Array, parser: Parser) -> None:
        """Takes messages in, with their values freed of schemas."""
        _, partition = run.key
        if run.messages:
            keys, _ = self.key_peeler.peel(pa.array(list(map(Message.key, run.messages)), pa.binary()))
            offsets = np.fromiter(map(Message.offset, run.messages), np.int64, len(run.messages))
            chunk = parser.parse(self.format, keys, payloads, stamps_of(run.messages), offsets)
            self.waiting[partition].append(chunk)
        self.fetched[partition] = max(self.fetched[partition], run.end)
        self._pass_nothing(partition)

    def take(self, partition: int, end: int | None, most_bytes: int | None, allowed: Prefix | None) -> list[pa.Table]:
        """Messages that are told now, repeats left out.

        Args:
            partition: Of the topic.
            end: Offset that none may reach; None for no such bound.
            most_bytes: About so many bytes; None for no such bound.
            allowed: How many of a chunk may be told at all.
        """
        found: list[pa.Table] = []
        size, chunks = 0, self.waiting[partition]
        while chunks and (most_bytes is None or size < most_bytes):
            chunk = chunks[0]
            offsets = chunk.column("offset").to_numpy()
            count = len(offsets) if end is None else int(np.searchsorted(offsets, end))
            if allowed is not None:
                count = min(count, allowed(chunk))
            if most_bytes is not None and count:
                sizes = np.cumsum(chunk.column("size").to_numpy()[:count])
                count = min(count, int(np.searchsorted(sizes, most_bytes - size)) + 1)
            if not count:
                break
            part = chunk.slice(0, count)
            kept, self.seen[partition] = sift(self.seen[partition], part)
            size += int(part.column("size").to_numpy().sum())
            found.append(part if kept.all() else part.filter(pa.array(kept)))
            self.at[partition] = int(offsets[count - 1]) + 1
            if count < len(offsets):
                chunks[0] = chunk.slice(count)
                break
            chunks.popleft()
        self._pass_nothing(partition)
        if end is not None and not (chunks and chunks[0].column("offset")[0].as_py() < end):
            self.at[partition] = max(self.at[partition], min(end, self.fetched[partition]))
        return found

    def _pass_nothing(self, partition: int) -> None:
        """Offsets without messages lie behind what was told."""
        if not self.waiting[partition]:
            self.at[partition] = max(self.at[partition], self.fetched[partition])

    def ready(self, partition: int, allowed: Prefix) -> tuple[int, bool]:
        """Of what waits: how many messages of transactions are allowed, and whether one that is not follows."""
        seen, count = self.seen[partition], 0
        for chunk in self.waiting[partition]:
            prefix = allowed(chunk)
            part = chunk.slice(0, prefix)
            kept, seen = sift(seen, part)
            count += int((kept & numbered(part)).sum())
            if prefix < chunk.num_rows:
                return count, True
        return count, False


def numbered(chunk: pa.Table) -> npt.NDArray[np.bool_]:
    """Which messages are changes of a transaction that Debezium counts."""
    told: npt.NDArray[np.bool_] = chunk.column("tx").is_valid().to_numpy()
    return told
