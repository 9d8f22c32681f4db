"""Reads batches back: slices of an epoch, partitions merged in the order of appends, checked for gaps and damage."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from raypipe.codec import decode
from raypipe.contracts import LogBatch, LogSlice
from raypipe.errors import Corrupt, SourceGap
from raypipe.kafka.clients import ANSWER_S
from raypipe.kafka.errors import passing
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.debezium import SCHEMA_HEADER, DebeziumJson
from raypipe.log.kafka.failures import damaged, explain, gap
from raypipe.log.kafka.fold import Fold, segments_between
from raypipe.log.kafka.history import History
from raypipe.log.kafka.messages import Header, header_of
from raypipe.log.kafka.names import kafka_topic, topic_and_partition
from raypipe.log.kafka.query import Query, taken
from raypipe.log.kafka.records import End
from raypipe.model import Cut

_TAKEN = 256
# A partition that runs ahead of the one whose turn it is waits with this much in memory.
_AHEAD_BYTES = 16 << 20

# Partition key to its end, by instance.
Ends = dict[str, dict[str, End]]


def slices(
    place: str, history: History, after: Cut | None, upto: Cut, topics: Collection[str], max_bytes: int
) -> list[LogSlice]:
    """Consecutive slices of what lies between two cuts; ``begin`` and ``end`` are JSON, the end of each partition.

    ``after=None`` begins with the oldest batch still kept: who holds no cut ignores every change before a load.

    Raises:
        SourceGap: a cut is no longer known.
    """
    chosen = frozenset(topics)
    oldest = history.base.oldest
    if after is None:
        state = history.state_at(oldest) if oldest else history.base.fold.copy()
        assert state is not None
    else:
        state = _known(place, history, after)
    _known(place, history, upto)
    at = state.cut_ends()
    parts: list[LogSlice] = []
    begins: Ends = {}
    ends: Ends = {}
    size = 0

    def finish() -> None:
        parts.append(
            LogSlice(begin=_text(history.now.log, begins), end=_text(history.now.log, ends), topics=ordered, bytes=size)
        )

    ordered = tuple(sorted(chosen))
    for instance, mark in segments_between(state, history.records_after(state.number), upto.number):
        mine = {key: end for key, end in mark.ends.items() if topic_and_partition(key)[0] in chosen}
        for key, end in mine.items():
            begins.setdefault(instance, {}).setdefault(key, at.get(key, (0, 0)))
            ends.setdefault(instance, {})[key] = end
            at[key] = end
        size += mark.bytes if mine else 0
        if size >= max(1, max_bytes):
            finish()
            begins, ends, size = {}, {}, 0
    if ends:
        finish()
    return parts


def _known(place: str, history: History, held: Cut) -> Fold:
    state = history.state_at(held.number) if held.log == history.now.log else None
    if state is None or state.cut() != held:
        raise SourceGap(
            f"Log {place} does not know cut {held.number}: it was forgotten, or made by another log or by another copy"
            " of this one.",
            remedy="Restore the log that goes with the sinks, or reload the tables of the sinks that hold this cut.",
            cut=held.number,
            log=place,
        )
    return state


def _text(log: str, ends: Ends) -> str:
    return json.dumps({"log": log, "ends": ends}, separators=(",", ":"))


@dataclass(kw_only=True)
class _Unit:
    """The messages of one batch."""

    header: Header
    offset: int
    schema: bytes | None
    values: list[bytes | str | None] = field(default_factory=list)
    bytes: int = 0


@dataclass(kw_only=True)
class _Range:
    """What is still to be read of a partition."""

    key: str
    topic: str
    name: str
    partition: int
    begin: int
    next_sequence: int
    end: int
    end_sequence: int
    waiting: deque[_Unit] = field(default_factory=deque)
    unit: _Unit | None = None  # some of its messages are still to come
    waiting_bytes: int = 0
    fetched: bool = False
    short: bool = False  # its end was reported below the one that is wanted
    paused: bool = False

    @property
    def assigned(self) -> TopicPartition:
        """For the consumer."""
        return TopicPartition(self.name, self.partition, self.begin)


class Reading:
    """Reads slices, one after the other; the consumer behind it is made when the first comes.

    Args:
        clients: To connect with.
        query: For words about silence.
        json: Decodes the tables that are written as JSON.
    """

    def __init__(self, clients: Clients, query: Query, json: DebeziumJson) -> None:
        self._clients = clients
        self._query = query
        self._json = json
        self._made: Consumer | None = None

    def read(self, part: LogSlice) -> Iterator[LogBatch]:
        """Batches of a slice, instance by instance, in the order of appends within each.

        Raises:
            Corrupt: a batch is missing or not what was written.
            SourceGap: part of the slice is no longer there.
        """
        begins, ends = json.loads(part.begin), json.loads(part.end)
        for instance in sorted(ends["ends"]):
            ranges = [
                _range(key, begins["ends"][instance][key], end) for key, end in sorted(ends["ends"][instance].items())
            ]
            yield from self._merged(ends["log"], ranges)

    def close(self) -> None:
        """Ends the consumer; idempotent."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _merged(self, log: str, ranges: list[_Range]) -> Iterator[LogBatch]:
        consumer = self._consumer()
        consumer.assign([one.assigned for one in ranges])
        by_partition = {(one.name, one.partition): one for one in ranges}
        try:
            left = list(ranges)
            deadline = time.monotonic() + ANSWER_S
            while left:
                hungry = next((one for one in left if not one.waiting and not one.fetched), None)
                if hungry is not None:
                    if hungry.paused:
                        consumer.resume([TopicPartition(hungry.name, hungry.partition)])
                        hungry.paused = False
                    messages = taken(consumer, _TAKEN, 0.5)
                    for message in messages:
                        self._take(log, message, by_partition, consumer)
                        if message.error() is None:
                            deadline = time.monotonic() + ANSWER_S
                    if not hungry.waiting and not hungry.fetched and time.monotonic() > deadline:
                        # A broker that answers and has less than a commit said: the topic is another one by now.
                        raise gap(self._clients.place, hungry.name) if hungry.short else self._query.silent(hungry.name)
                    continue
                left = [one for one in left if one.waiting or not one.fetched]
                ready = [one for one in left if one.waiting]
                if len(ready) < len(left) or not left:
                    continue
                first = min(ready, key=lambda one: (one.waiting[0].header.place, one.partition))
                unit = first.waiting.popleft()
                first.waiting_bytes -= unit.bytes
                if not unit.header.copy:
                    yield self._batch(first, unit)
                    deadline = time.monotonic() + ANSWER_S
            consumer.unassign()
        except BaseException:
            # The client keeps an error about an offset in its queue even when the partition is assigned anew: the next
            # read, of what is there, would be told that it is gone.
            self.close()
            raise

    def _take(self, log: str, message: Message, ranges: dict[tuple[str, int], _Range], consumer: Consumer) -> None:
        one = ranges.get((message.topic() or "", message.partition() or 0))
        error, offset = message.error(), message.offset() or 0
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if not passing(error):
                raise explain(self._clients.place, error, message.topic() or (one.name if one else ""))
            return
        if one is None or one.fetched:
            return
        one.short = error is not None and offset < one.end
        if error is None and offset < one.end:
            self._add(log, one, message)
        if offset >= one.end - (1 if error is None else 0):
            one.fetched = True
            # What lies beyond belongs to later slices: fetching it now would be fetching it twice.
            consumer.incremental_unassign([TopicPartition(one.name, one.partition)])
            if one.next_sequence != one.end_sequence or one.unit is not None:
                raise damaged(
                    self._clients.place,
                    f"topic {one.name}, partition {one.partition} lacks {one.end_sequence - one.next_sequence} messages"
                    f" below offset {one.end} (is it compacted, or were messages deleted?)",
                )
        elif one.waiting_bytes > _AHEAD_BYTES and not one.paused and len(ranges) > 1:
            consumer.pause([TopicPartition(one.name, one.partition)])
            one.paused = True

    def _add(self, log: str, one: _Range, message: Message) -> None:
        """Takes one message, which begins a batch or goes on with one."""
        headers = message.headers()
        unit = one.unit
        if unit is None:
            unit = _Unit(
                header=self._header(log, one, message, headers),
                offset=message.offset() or 0,
                schema=next((content for name, content in headers or () if name == SCHEMA_HEADER), None),
            )
        elif headers:
            raise self._foreign(one, message)
        value = message.value()
        unit.values.append(value)
        unit.bytes += len(value or b"")
        one.next_sequence += 1
        one.unit = unit
        if len(unit.values) == unit.header.messages:
            one.unit = None
            one.waiting.append(unit)
            one.waiting_bytes += unit.bytes

    def _header(self, log: str, one: _Range, message: Message, headers: object) -> Header:
        try:
            header = header_of(headers)  # type: ignore[arg-type]
        except ValueError as error:
            raise self._foreign(one, message) from error
        if header is None:
            raise self._foreign(one, message)
        if header.log != log:
            raise gap(self._clients.place, one.name)
        if header.sequence != one.next_sequence:
            raise damaged(
                self._clients.place,
                f"topic {one.name}, partition {one.partition} has message {header.sequence} at offset"
                f" {message.offset()}, where message {one.next_sequence} should be",
            )
        return header

    def _foreign(self, one: _Range, message: Message) -> Corrupt:
        return Corrupt(
            f"Topic {one.name} of log {self._clients.place} holds a message that raypipe did not write (partition"
            f" {one.partition}, offset {message.offset()}).",
            remedy=(
                "Find who writes to the topic and forbid it: only raypipe may. Then delete the pipeline's topics and"
                " run again, which loads every table anew."
            ),
            topic=one.name,
            offset=message.offset(),
        )

    def _batch(self, one: _Range, unit: _Unit) -> LogBatch:
        try:
            if unit.schema is not None:
                batch = self._json.decode(unit.schema, unit.values)
            else:
                batch = decode(_bytes(unit.values[0]))
        except Corrupt as error:
            raise damaged(
                self._clients.place, f"message {unit.offset} of topic {one.name} cannot be decoded", error
            ) from error
        return LogBatch(topic=one.topic, offset=unit.offset, batch=batch)

    def _consumer(self) -> Consumer:
        if self._made is None:
            self._made = self._clients.jumping()
        return self._made


def _bytes(value: bytes | str | None) -> bytes:
    if not isinstance(value, bytes):
        raise Corrupt("An empty message.")
    return value


def _range(key: str, begin: list[int], end: list[int]) -> _Range:
    topic, partition = topic_and_partition(key)
    return _Range(
        key=key,
        topic=topic,
        name=kafka_topic(topic),
        partition=partition,
        begin=begin[0],
        next_sequence=begin[1],
        end=end[0],
        end_sequence=end[1],
    )
