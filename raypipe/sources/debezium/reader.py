"""Cuts topics into pieces: what goes into one, and where it ends.

A piece ends where the reader stops to fetch, so its end is a boundary of each table and of no transaction: nothing in
these topics says which messages of different topics belong together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from raypipe.contracts import Piece
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, ChangeBatch, Image, Op, TableSchema
from raypipe.sources.debezium.address import Address
from raypipe.sources.debezium.decode import Decoder, Messages, Table
from raypipe.sources.debezium.failures import explain, gap, passing, silent
from raypipe.sources.debezium.learn import chosen_as_text, header_of, merged, outgrown
from raypipe.sources.debezium.peel import Peeler
from raypipe.sources.debezium.position import Place, Position
from raypipe.sources.debezium.shape import Shape, Style, columns_of, of_embedded, of_header, of_values
from raypipe.sources.debezium.topics import ANSWER_S, Topic, Topics, stamp_of, taken

# Messages taken from the library at a time.
_TAKEN = 1_000
# What a message costs beside its bytes.
_MESSAGE_BYTES = 64
# Whether topics are still the same ones is asked again after so long.
_LOOK_AGAIN_S = 10.0


@dataclass(kw_only=True)
class Following:
    """A table that is read.

    Attributes:
        table: As the pipeline file writes it.
        topic: Its topic.
        id: That Kafka gave the topic.
        at: For each partition the offset of the next message.
        shape: Of its rows.
        version: Of the shape.
        until: Where its load ends, None if it is loaded.
        deleted: See ``Place``.
        restart: It is to be loaded from the topic's beginning.
        peeler: Of its messages' values.
        key_peeler: Of its messages' keys.
    """

    table: str
    topic: str
    id: str
    at: list[int]
    shape: Shape
    version: int = 1
    until: tuple[int, ...] | None = None
    deleted: dict[int, str] = field(default_factory=dict)
    restart: bool = False
    peeler: Peeler = field(default_factory=Peeler)
    key_peeler: Peeler = field(default_factory=Peeler)

    @property
    def loaded(self) -> bool:
        """Whether a load has reached its end, and nobody was told yet."""
        return self.until is not None and all(at >= end for at, end in zip(self.at, self.until, strict=True))

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
        )


class Reader:
    """Reads the topics of a source from given places on.

    Args:
        instance: Name of the source.
        address: Of the Kafka.
        topics: To ask.
        tables: To read.
        number: Pieces that were read before.
    """

    def __init__(
        self, instance: str, address: Address, topics: Topics, tables: Sequence[Following], number: int
    ) -> None:
        self.tables = {each.topic: each for each in tables}
        self._instance = instance
        self._address = address
        self._topics = topics
        self._number = number
        self._decoder = Decoder()
        self._consumer: Consumer | None = None
        self._stash: deque[Message] = deque()  # fetched, and not yet part of a piece
        self._looked = time.monotonic()

    @property
    def position(self) -> Position:
        """Where the reader stands; tables whose load has yet to begin are not there."""
        return Position(
            number=self._number,
            places={each.table: each.place for each in self.tables.values() if not each.restart},
        )

    def close(self) -> None:
        """Ends the consumer; idempotent."""
        self._decoder.close()
        self._stash.clear()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def next_piece(self, max_bytes: int, limit: Position | None) -> Piece | None:
        """The next piece, None if there is nothing new.

        Raises:
            SourceGap: messages or a topic are gone.
            SchemaMismatch: a message does not fit its table.
            Unavailable: no answer.
        """
        while True:
            counts = {topic: len(each.at) for topic, each in self.tables.items()}
            self._look(counts)
            ends = self._topics.ends(counts)
            self._require_growth(ends)
            begun = self._begin_loads(counts, ends)
            target = {topic: self._limited(topic, ends[topic], limit) for topic in self.tables}
            found, reached = self._gather(max_bytes, target, limit)
            arrived = (reached and limit is not None) or any(each.loaded for each in self.tables.values())
            if not found and not begun and not arrived:
                return None
            for topic, messages in found.items():
                values = pa.array(messages.values, pa.binary())
                messages.payloads, messages.schemas = self.tables[topic].peeler.peel(values)
            grown = [topic for topic, messages in found.items() if self._grows(self.tables[topic], messages)]
            if grown:
                self._read_again(grown)
                found = {topic: messages for topic, messages in found.items() if topic not in grown}
                if not found and not begun:
                    continue
            return self._piece(found, begun, ends)

    def wait(self, timeout_s: float) -> None:
        """Returns when a message came, at the latest after the timeout."""
        if self._stash or any(each.restart for each in self.tables.values()):
            return
        consumer, deadline = self._assigned(), time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = consumer.poll(left)
            if message is not None and (error := message.error()) is None:
                self._stash.append(message)
                return
            if message is not None and error is not None and error.code() != KafkaError._PARTITION_EOF:
                return  # the poll that follows tells what is wrong

    # What is there

    def _look(self, counts: Mapping[str, int]) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_AGAIN_S:
            return
        found = self._topics.describe(list(counts))
        for each in self.tables.values():
            there = found.get(each.topic)
            require_same(each.topic, each.id, len(each.at), there)
        self._looked = now

    def _require_growth(self, ends: Mapping[str, Sequence[int]]) -> None:
        for each in self.tables.values():
            if not each.restart and any(at > end for at, end in zip(each.at, ends[each.topic], strict=True)):
                raise gap(each.topic, "it ends before that position, so it is another topic or an older copy")

    def _begin_loads(self, counts: Mapping[str, int], ends: Mapping[str, tuple[int, ...]]) -> list[str]:
        begun = [topic for topic, each in self.tables.items() if each.restart]
        if begun:
            begins = self._topics.begins({topic: counts[topic] for topic in begun})
            for topic in begun:
                each = self.tables[topic]
                each.at, each.until, each.restart = list(begins[topic]), ends[topic], False
                each.deleted.clear()
            self._assign()
        return begun

    def _limited(self, topic: str, end: tuple[int, ...], limit: Position | None) -> tuple[int, ...]:
        place = None if limit is None else limit.places.get(self.tables[topic].table)
        return end if place is None else tuple(min(pair) for pair in zip(end, place.at, strict=True))

    # Fetching

    def _assign(self) -> None:
        """Has every partition fetched from where its table stands."""
        self._stash.clear()
        if self._consumer is None:
            self._consumer = self._topics.consumer()
        self._consumer.assign(
            [
                TopicPartition(each.topic, partition, offset)
                for each in self.tables.values()
                for partition, offset in enumerate(each.at)
            ]
        )

    def _assigned(self) -> Consumer:
        if self._consumer is None:
            self._assign()
        assert self._consumer is not None
        return self._consumer

    def _gather(
        self, max_bytes: int, target: Mapping[str, Sequence[int]], limit: Position | None
    ) -> tuple[dict[str, Messages], bool]:
        """Messages up to the target, until there is enough of them; and whether the target was reached in going on.

        With a limit none beyond the target; without one, what came meanwhile is welcome.
        """
        left = {
            (topic, partition)
            for topic, each in self.tables.items()
            for partition, (at, end) in enumerate(zip(each.at, target[topic], strict=True))
            if at < end
        }
        if not left:
            return {}, False
        consumer = self._assigned()
        found: dict[str, Messages] = {}
        beyond: list[Message] = []
        paused: list[TopicPartition] = []
        size, place, deadline = 0, 0, time.monotonic() + ANSWER_S
        try:
            while left and size < max_bytes:
                if not self._stash:
                    self._stash.extend(taken(consumer, _TAKEN, 0.5))
                    if not self._stash and time.monotonic() > deadline:
                        raise silent(self._topics.place, ", ".join(sorted({topic for topic, _ in left})), ANSWER_S)
                    continue
                deadline = time.monotonic() + ANSWER_S
                while self._stash and left and size < max_bytes:
                    message = self._stash.popleft()
                    topic, partition = message.topic() or "", message.partition() or 0
                    each, offset = self.tables.get(topic), message.offset() or 0
                    error = message.error()
                    if each is None or (error is not None and error.code() != KafkaError._PARTITION_EOF):
                        if error is not None and not passing(error):
                            raise explain(self._topics.place, error, topic or next(iter(left))[0])
                        continue
                    end = target[topic][partition]
                    if error is None and offset >= end and limit is not None:
                        beyond.append(message)
                        consumer.pause([TopicPartition(topic, partition)])
                        paused.append(TopicPartition(topic, partition))
                        left.discard((topic, partition))
                        each.at[partition] = max(each.at[partition], end)
                        continue
                    if error is None:
                        place += 1
                        into = found.get(topic)
                        if into is None:
                            into = found[topic] = Messages()
                        size += self._keep(into, each, message, partition, offset, place)
                        offset += 1
                    # The end of a partition lies behind what commits leave there, which no message shows.
                    each.at[partition] = max(each.at[partition], min(offset, end) if error is not None else offset)
                    if each.at[partition] >= end:
                        left.discard((topic, partition))
        finally:
            self._stash.extendleft(reversed(beyond))
            if paused:
                consumer.resume(paused)
        return found, not left

    def _keep(self, into: Messages, each: Following, message: Message, partition: int, offset: int, place: int) -> int:
        """Takes what is needed of a message; returns its size."""
        key, value = message.key(), message.value()
        into.keys.append(key)
        into.values.append(value)
        into.stamps.append(stamp_of(message))
        into.partitions.append(partition)
        into.offsets.append(offset)
        into.places.append(place)
        if each.shape.style is Style.RAYPIPE and (header := header_of(message)) is not None:
            into.header = (header, into.stamps[-1])
        return len(key or b"") + len(value or b"") + _MESSAGE_BYTES

    # Shapes that change

    def _grows(self, each: Following, messages: Messages) -> bool:
        """Takes on a newer shape; whether there is one that the table's rows need to be read again for."""
        newer = self._newest(each, messages)
        if newer is None:
            return False
        newer = newer.as_text(chosen_as_text(self._address, each.table))
        if not outgrown(each.shape, newer):
            return False
        each.shape, each.version = merged(each.shape, newer), each.version + 1
        return True

    def _newest(self, each: Following, messages: Messages) -> Shape | None:
        if each.shape.style is Style.RAYPIPE:
            return None if messages.header is None else of_header(*messages.header)
        if each.shape.style is Style.EMBEDDED:
            shapes = [
                of_embedded(each.peeler.schemas[prefix] or {}, each.shape.key, messages.stamps[first])
                for first, prefix in messages.schemas
            ]
            known = [shape for shape in shapes if shape is not None]
            return max(known, key=lambda shape: shape.seen_ms, default=None)
        last = next((value for value in reversed(messages.values) if value is not None), None)
        names = {one.name for one in each.shape.fields}
        if last is None or columns_of(last) <= names:
            return None
        shape = of_values([last], each.shape.key, each.topic, messages.stamps[-1])
        if shape is None:
            return None
        # Values alone say what is new, and nothing about the type of what is known.
        fields = tuple(one for one in shape.fields if one.name not in names)
        return Shape(style=Style.PLAIN, fields=fields, key=shape.key, seen_ms=shape.seen_ms) if fields else None

    def _read_again(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self.tables[topic].restart = True

    # Pieces

    def _piece(self, found: Mapping[str, Messages], begun: Sequence[str], ends: Mapping[str, Sequence[int]]) -> Piece:
        self._number += 1
        batches: list[ChangeBatch] = []
        for topic, each in self.tables.items():
            if each.restart:
                continue
            schema = each.shape.schema(
                self._address.name(self._instance, each.table), each.version, key_only=not self._address.whole_before
            )
            if topic in begun:
                batches.append(_truncate(schema, self._number))
            if topic in found:
                batch, each.deleted = self._decoder.decode(
                    Table(
                        topic=topic,
                        shape=each.shape,
                        schema=schema,
                        until=each.until,
                        emptied=topic in begun,
                        partitions=len(each.at),
                        deleted=each.deleted,
                        whole_before=self._address.whole_before,
                    ),
                    found[topic],
                    each.key_peeler.peel(pa.array(found[topic].keys, pa.binary()))[0],
                    self._number,
                )
                batches += [] if batch is None else [batch]
            if each.loaded:
                each.until = None
        return Piece(
            batches=tuple(_joined(batches)),
            position=self.position.to_text(),
            boundary=True,
            loading=tuple(
                f"{self._instance}.{each.table.rpartition('.')[2]}"
                for each in self.tables.values()
                if each.until is not None or each.restart
            ),
            pending=sum(
                max(0, end - at)
                for topic, each in self.tables.items()
                for at, end in zip(each.at, ends[topic], strict=True)
            ),
        )


def require_same(topic: str, id_: str, partitions: int, there: Topic | None) -> None:
    """Checks that a topic is the one that was read, with as many partitions.

    Raises:
        SourceGap: it is not.
    """
    if there is None:
        raise gap(topic, "the topic is gone")
    if there.id != id_:
        raise gap(topic, "the topic was deleted and made anew, or it is that of another Kafka")
    if there.partitions != partitions:
        raise gap(topic, "partitions were added, so that changes of one key may lie in two of them, in no known order")


def _truncate(schema: TableSchema, number: int) -> ChangeBatch:
    arrow = ChangeBatch.arrow_schema(schema)
    row = dict.fromkeys(arrow.names) | {OP: Op.TRUNCATE, IMAGE: Image.FULL, COMMIT: number, ORDINAL: 0}
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_pylist([row], schema=arrow))


def _joined(batches: Sequence[ChangeBatch]) -> list[ChangeBatch]:
    """One batch for each table: the TRUNCATE that begins its load, and what follows."""
    tables: dict[str, list[ChangeBatch]] = {}
    for batch in batches:
        tables.setdefault(str(batch.schema.table), []).append(batch)
    return [
        parts[0]
        if len(parts) == 1
        else ChangeBatch(
            schema=parts[0].schema,
            rows=pa.Table.from_batches([part.rows for part in parts]).combine_chunks().to_batches()[0],
        )
        for parts in tables.values()
    ]
