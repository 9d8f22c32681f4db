"""The messages of one transaction: rows on their way to the broker, and where they come to stand there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message

from raypipe import faults
from raypipe.codec import Compression, encode, split
from raypipe.errors import LimitExceeded, Unavailable
from raypipe.kafka.clients import ANSWER_S, MESSAGE_BYTES
from raypipe.log.kafka.clients import PRODUCER_BYTES, PRODUCER_MESSAGES
from raypipe.log.kafka.debezium import SCHEMA_HEADER, DebeziumJson, schema_header
from raypipe.log.kafka.messages import HEADER, Header
from raypipe.log.kafka.names import kafka_topic, partition_key, topic_and_partition
from raypipe.log.kafka.records import End, Mark
from raypipe.log.kafka.spread import Share, spread
from raypipe.log.kafka.writer import Writer
from raypipe.model import OP, ChangeBatch, Op

# Of Arrow memory in one message: about 1 MiB when compressed, where Kafka is fastest.
_BATCH_BYTES = 2 << 20
# Room in a message for its header and the record around it.
_OVERHEAD_BYTES = 4 << 10
# A slice of an epoch can end after so much of a large commit.
_MARK_BYTES = 4 << 20


@dataclass(kw_only=True)
class _Sent:
    """A batch on its way.

    Attributes:
        key: Of its partition.
        place: Among the appends of the instance.
        messages: It consists of.
        sequence_end: Number of the next message in the partition.
        bytes: Of its payload.
        load: It begins a load.
        end: Offset behind it: foretold, or told by the broker; -1 while not known.
        told: By the broker, -1 until it has.
    """

    key: str
    place: int
    messages: int
    sequence_end: int
    bytes: int
    load: bool
    end: int = -1
    told: int = -1


class Sending:
    """Sends the rows of one transaction, and its record. Used by one thread.

    Args:
        writer: To write with.
        compression: Of Arrow payloads.
        json: Encodes the tables that are written as JSON.
    """

    def __init__(self, writer: Writer, compression: Compression, json: DebeziumJson) -> None:
        self._writer = writer
        self._compression = compression
        self._json = json
        self._sent: list[_Sent] = []
        self._counts: dict[str, int] = {}
        self._sent_bytes = 0
        self._delivered_bytes = 0
        self._failure: KafkaError | None = None
        self.place = writer.state.place
        self.rows = 0
        self.record_offset = -1

    def send(self, topic: str, partitions: int, batch: ChangeBatch) -> None:
        """Hands a batch to the library, waiting while its queue is full: so the pressure reaches the source.

        Raises:
            KafkaException: something sent before could not be delivered.
            LimitExceeded: one change is too large to be stored.
            Unavailable: the broker takes nothing.
        """
        for group in spread(batch, partitions):
            for share in group:
                self._send(topic, share)
            self.place += 1

    def foretell(self) -> bool:
        """Says where everything will stand before the broker does; False if that is not known of a partition.

        Each transaction leaves one marker behind its last message in a partition, and nobody else writes there: so the
        record need not wait for an answer to the rows. What was foretold is compared with the answer before the commit.
        """
        if faults.armed("mutant.no_fence"):
            return False  # what was foretold is a fence, too
        offsets = dict(self._writer.next_offsets)
        if not all(sent.key in offsets for sent in self._sent):
            return False
        for sent in self._sent:
            sent.end = offsets[sent.key] = offsets[sent.key] + sent.messages
        return True

    def deliver(self) -> None:
        """Waits until the broker has everything.

        Raises:
            KafkaException: it has not.
            Fenced: a later writer has written.
            SourceGap: a partition has not grown beyond its end.
            Unavailable: something stands elsewhere than was foretold.
        """
        left = self._writer.flush(ANSWER_S)
        self._require_delivering()
        if left:
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
        for sent in self._sent:
            if sent.end not in (-1, sent.told):
                self._require_growth(sent.key, sent.told)
                topic, _ = topic_and_partition(sent.key)
                raise Unavailable(
                    f"Topic {topic} of log {self._writer.place} does not go on where the last transaction ended.",
                    remedy="The reader starts again. A broker that was replaced may have written a marker twice; if it"
                    " happens often, somebody else writes to the topic.",
                    log=self._writer.place,
                )
            sent.end = sent.told

    def ends(self) -> tuple[list[Mark], dict[str, int]]:
        """Where the appends end, and where loads begin.

        Raises:
            Fenced: a later writer has written.
            SourceGap: a partition has not grown beyond its end.
        """
        for sent in self._sent:
            self._require_growth(sent.key, sent.end)
        return list(_marks(self._sent)), {sent.key: sent.end - 1 for sent in self._sent if sent.load}

    def send_record(self, topic: str, value: bytes) -> None:
        """Sends the transaction's record behind its rows."""

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failure = self._failure or error
            else:
                self.record_offset = message.offset() or 0

        self._produce(topic, value, 0, None, delivered)

    def committed(self) -> None:
        """The transaction is durable: its markers stand behind its rows."""
        self._writer.next_offsets.update({sent.key: sent.end + 1 for sent in self._sent})

    def _require_growth(self, key: str, end: int) -> None:
        if end <= self._writer.state.ends.get(key, (0, 0))[0]:
            raise self._writer.not_grown(key)

    def bare(self) -> Sending:
        """One that has sent nothing."""
        return Sending(self._writer, self._compression, self._json)

    def _send(self, topic: str, share: Share) -> None:
        as_json = self._writer.address.encodes_as_json(share.batch.schema.table)
        for part in split(share.batch, _BATCH_BYTES):
            if not share.copy:
                self.rows += part.num_rows
            if as_json:
                self._send_json(topic, share, part)
            else:
                self._send_arrow(topic, share, part)

    def _send_arrow(self, topic: str, share: Share, part: ChangeBatch) -> None:
        payload = encode(part, self._compression)
        if payload.size + _OVERHEAD_BYTES > MESSAGE_BYTES:
            raise LimitExceeded(
                f"A change of table {part.schema.table} takes {payload.size} bytes; the Kafka log holds"
                f" {MESSAGE_BYTES - _OVERHEAD_BYTES} at most.",
                remedy="Leave the table out of the pipeline, or keep such values outside of the database.",
                table=str(part.schema.table),
                bytes=payload.size,
            )
        sent, header = self._place(topic, share, part, messages=1, size=payload.size)
        headers = [(HEADER, header.to_bytes())]
        delivered = partial(self._delivered, sent)
        self._produce(kafka_topic(topic), payload.to_pybytes(), share.partition, headers, delivered)

    def _send_json(self, topic: str, share: Share, part: ChangeBatch) -> None:
        messages = self._json.encode(part)
        if not messages.values:
            return
        count, name = len(messages.values), kafka_topic(topic)
        sent, header = self._place(topic, share, part, messages=count, size=messages.bytes)
        headers = [(HEADER, header.to_bytes()), (SCHEMA_HEADER, schema_header(part.schema, part.rows.schema))]
        delivered = partial(self._delivered, sent)
        self._await_room(count)
        first_report = delivered if count == 1 else None
        self._produce(name, messages.values[0], share.partition, headers, first_report, key=messages.keys[0])
        if count == 1:
            return
        rest: list[dict[str, object]] = [
            {"value": value, "key": key} for value, key in zip(messages.values[1:], messages.keys[1:], strict=True)
        ]
        # The broker answers in order, so the report on the last message speaks for all; a message that fails ends the
        # transaction, whoever is told.
        rest[-1]["callback"] = delivered
        taken = self._writer.producer.produce_batch(name, rest, partition=share.partition)
        if taken < len(rest):
            raise KafkaException(KafkaError(KafkaError._QUEUE_FULL))
        self._writer.serve()
        self._require_delivering()

    def _place(self, topic: str, share: Share, part: ChangeBatch, *, messages: int, size: int) -> tuple[_Sent, Header]:
        """Gives a batch its place in the log."""
        key = partition_key(topic, share.partition)
        sequence = self._counts.get(key, self._count(key))
        self._counts[key] = sequence + messages
        sent = _Sent(
            key=key,
            place=self.place,
            messages=messages,
            sequence_end=sequence + messages,
            bytes=size,
            load=share.partition == 0 and _begins_load(part.rows),
        )
        self._sent.append(sent)
        self._sent_bytes += size
        header = Header(
            log=self._writer.identity, place=self.place, sequence=sequence, messages=messages, copy=share.copy
        )
        return sent, header

    def _await_room(self, messages: int) -> None:
        """Waits until the library's queue takes a whole batch: half of one would come out of order.

        Raises:
            Unavailable: it does not empty.
        """
        deadline = time.monotonic() + ANSWER_S
        while (
            len(self._writer.producer) + messages > PRODUCER_MESSAGES
            or self._sent_bytes - self._delivered_bytes > PRODUCER_BYTES // 2
        ) and len(self._writer.producer):
            if time.monotonic() > deadline:
                raise self._stuck()
            self._writer.serve(0.02)
            self._require_delivering()

    def _stuck(self) -> Unavailable:
        return Unavailable(
            f"Log {self._writer.place} has taken nothing for {ANSWER_S:.0f} s.",
            remedy="Check that the brokers run; the reader starts again where the log stands.",
        )

    def _count(self, key: str) -> int:
        return self._writer.state.ends.get(key, (0, 0))[1]

    def _produce(
        self,
        name: str,
        value: bytes | str | None,
        partition: int,
        headers: list[tuple[str, bytes]] | None,
        delivered: Callable[[KafkaError | None, Message], None] | None,
        key: str | None = None,
    ) -> None:
        """Hands a message to the library, waiting while its queue is full: so the pressure reaches the source."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                self._writer.producer.produce(
                    name, value=value, key=key, partition=partition, headers=headers, on_delivery=delivered
                )
            except BufferError:
                if time.monotonic() > deadline:
                    raise self._stuck() from None
                self._writer.serve(0.02)
                self._require_delivering()
                continue
            self._writer.serve()
            self._require_delivering()
            return

    def _delivered(self, sent: _Sent, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = self._failure or error
            return
        sent.told = (message.offset() or 0) + 1
        self._delivered_bytes += sent.bytes

    def _require_delivering(self) -> None:
        if self._failure is not None:
            raise KafkaException(self._failure)


def _begins_load(rows: pa.RecordBatch) -> bool:
    return bool((rows.column(OP).to_numpy(zero_copy_only=False) == Op.TRUNCATE).any())


def _marks(sent: list[_Sent]) -> Iterator[Mark]:
    """The appends in groups of about ``_MARK_BYTES``, parted only between places."""
    ends: dict[str, End] = {}
    size = 0
    for at, one in enumerate(sent):
        if size >= _MARK_BYTES and sent[at - 1].place != one.place:
            yield Mark(ends=ends, bytes=size)
            ends, size = {}, 0
        ends[one.key] = (one.end, one.sequence_end)
        size += one.bytes
    if ends:
        yield Mark(ends=ends, bytes=size)
