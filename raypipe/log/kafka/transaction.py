"""One transaction of a reader: its batches, position and cut, in one Kafka transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message

from raypipe import faults
from raypipe.codec import Compression, encode, split
from raypipe.errors import InvariantBroken, LimitExceeded, RaypipeError, Unavailable
from raypipe.kafka.clients import ANSWER_S, MESSAGE_BYTES
from raypipe.log.kafka.clients import PRODUCER_BYTES, PRODUCER_MESSAGES
from raypipe.log.kafka.debezium import SCHEMA_HEADER, DebeziumJson, schema_header
from raypipe.log.kafka.failures import gap
from raypipe.log.kafka.messages import HEADER, Header
from raypipe.log.kafka.names import ControlTopics, kafka_topic, partition_key
from raypipe.log.kafka.records import CutRecord, End, Mark
from raypipe.log.kafka.spread import Share, spread
from raypipe.log.kafka.writer import Writer
from raypipe.model import OP, ChangeBatch, Cut, Op

# Of Arrow memory in one message: about 1 MiB when compressed, where Kafka is fastest.
_BATCH_BYTES = 2 << 20
# Room in a message for its header and the record around it.
_OVERHEAD_BYTES = 4 << 10
# A slice of an epoch can end after so much of a large commit.
_MARK_BYTES = 4 << 20


@dataclass(kw_only=True)
class _Sent:
    """A batch on its way: ``end`` is known once the broker has it."""

    key: str
    place: int
    sequence_end: int
    bytes: int
    load: bool
    end: int = -1


@dataclass(kw_only=True)
class _Work:
    """What a transaction has done so far."""

    sent: list[_Sent] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    place: int = 0
    rows: int = 0
    sent_bytes: int = 0
    delivered_bytes: int = 0
    failure: KafkaError | None = None
    cut_offset: int = -1


class KafkaLogTransaction:
    """See ``raypipe.contracts.LogTransaction``; made by ``KafkaLog.begin``.

    Args:
        writer: To write with.
        names: Of the pipeline's own topics.
        compression: Of Arrow payloads.
        json: Encodes the tables that are written as JSON.
    """

    def __init__(self, writer: Writer, names: ControlTopics, compression: Compression, json: DebeziumJson) -> None:
        self._writer = writer
        self._names = names
        self._compression = compression
        self._json = json
        self._work = _Work(place=writer.state.place)
        self._begun = False
        self._open = True
        self.broken = False  # the writer can do nothing more

    @property
    def is_open(self) -> bool:
        """Whether it was neither committed nor aborted."""
        return self._open

    def append(self, topic: str, batch: ChangeBatch) -> None:
        """Adds a batch at the end of its topic, spread over its partitions; a large one in several parts.

        Raises:
            LimitExceeded: one change is too large to be stored.
            Fenced: a later claim exists; nothing was written.
            Unavailable: the log does not answer; nothing was written.
        """
        self._require_open()
        faults.point("log.append.before")
        entry = self._writer.entry(topic)
        with self._aborting():
            self._begin()
            for group in spread(batch, entry.partitions):
                for share in group:
                    self._send(topic, share)
                self._work.place += 1
        faults.point("log.append.after")

    def commit(self, position: str, *, boundary: bool, loading: Collection[str] = ()) -> Cut | None:
        """Makes the appends and the position durable; returns the new cut if ``boundary``, else None.

        Raises:
            Fenced: a later claim exists; nothing was written.
            OutcomeUnknown: read ``position`` back with a new claim.
            Unavailable: nothing was written.
        """
        self._require_open()
        if faults.armed("mutant.position_before_data"):
            self._commit_position_alone(position, loading)
        whole = boundary or faults.armed("mutant.torn_cut")
        with self._aborting():
            self._begin()
            self._deliver()
            record = self._record(position, whole, loading)
            self._send_record(record)
            self._deliver()
            faults.point("log.commit.before")
        number = self._commit()
        self._writer.fresh.clear()
        self._open = False
        faults.point("log.commit.after")
        return self._writer.cut(number) if whole else None

    def abort(self) -> None:
        """Forgets the appends; idempotent, also after a failed commit."""
        if not self._open:
            return
        self._open = False
        if self._begun and not self.broken:
            try:
                self._writer.producer.abort_transaction(ANSWER_S)
            except (KafkaException, SystemError):
                # The next writer of the instance ends the transaction when it takes the transactional id.
                self.broken = True

    def _require_open(self) -> None:
        if not self._open:
            raise InvariantBroken(f"A log transaction of instance {self._writer.instance} was used after its end.")

    def _begin(self) -> None:
        if not self._begun:
            self._writer.begin()
            self._begun = True

    def _aborting(self) -> _Aborting:
        return _Aborting(self)

    def give_up(self, error: BaseException) -> RaypipeError | None:
        """Ends the transaction after an error within it; returns the error to raise instead, if another."""
        found: RaypipeError | None = None
        if isinstance(error, KafkaException):
            found = self._writer.failed(error, sent=False)
            self.broken = True
        self.abort()
        return found

    def _send(self, topic: str, share: Share) -> None:
        as_json = self._writer.address.encodes_as_json(share.batch.schema.table)
        for part in split(share.batch, _BATCH_BYTES):
            if not share.copy:
                self._work.rows += part.num_rows
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
        work, key = self._work, partition_key(topic, share.partition)
        sequence = work.counts.get(key, self._count(key))
        work.counts[key] = sequence + messages
        sent = _Sent(
            key=key,
            place=work.place,
            sequence_end=sequence + messages,
            bytes=size,
            load=share.partition == 0 and _begins_load(part.rows),
        )
        work.sent.append(sent)
        work.sent_bytes += size
        header = Header(
            log=self._writer.identity, place=work.place, sequence=sequence, messages=messages, copy=share.copy
        )
        return sent, header

    def _await_room(self, messages: int) -> None:
        """Waits until the library's queue takes a whole batch: half of one would come out of order.

        Raises:
            Unavailable: it does not empty.
        """
        deadline, work = time.monotonic() + ANSWER_S, self._work
        while (
            len(self._writer.producer) + messages > PRODUCER_MESSAGES
            or work.sent_bytes - work.delivered_bytes > PRODUCER_BYTES // 2
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
            self._work.failure = self._work.failure or error
            return
        sent.end = (message.offset() or 0) + 1
        self._work.delivered_bytes += sent.bytes

    def _require_delivering(self) -> None:
        if self._work.failure is not None:
            raise KafkaException(self._work.failure)

    def _deliver(self) -> None:
        """Waits until the broker has everything; each partition must have grown beyond its end."""
        left = self._writer.flush(ANSWER_S)
        self._require_delivering()
        if left:
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))

    def _record(self, position: str, boundary: bool, loading: Collection[str]) -> CutRecord:
        writer, work = self._writer, self._work
        for sent in work.sent:
            if sent.end <= writer.state.ends.get(sent.key, (0, 0))[0]:
                raise gap(writer.place, sent.key)
        return CutRecord(
            instance=writer.instance,
            generation=writer.claim.generation,
            number=writer.state.records + 1,
            boundary=boundary,
            position=position,
            loading=tuple(sorted(loading)),
            marks=tuple(_marks(work.sent)),
            rows=work.rows,
            place=work.place,
            loads={sent.key: sent.end - 1 for sent in work.sent if sent.load},
            topics=dict(writer.fresh),
            at=time.time(),
        )

    def _send_record(self, record: CutRecord) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._work.failure = self._work.failure or error
            else:
                self._work.cut_offset = message.offset() or 0

        self._produce(self._names.cuts, record.to_bytes(), 0, None, delivered)

    def _commit(self) -> int:
        """Commits and waits until every reader can see it; returns the number of the record."""
        writer, deadline = self._writer, time.monotonic() + ANSWER_S
        number = self._work.cut_offset + 1
        while True:
            try:
                writer.commit(ANSWER_S)
                break
            except KafkaException as error:
                inner = error.args[0]
                if inner.retriable() and time.monotonic() < deadline:
                    continue  # the same commit is asked for again: it happens once
                failure = writer.failed(error, sent=True)
                if inner.txn_requires_abort():
                    self.abort()
                self.broken, self._open = True, False
                raise failure from error
            except BaseException:
                self.broken, self._open = True, False
                raise
        # Kafka answers before the end of the transaction stands in the partitions; until it does nobody can read it.
        try:
            seen = writer.await_cut(number)
        except RaypipeError as error:
            self.broken, self._open = True, False
            raise writer.unanswered(error) from error
        if not seen:
            self.broken, self._open = True, False
            raise writer.unanswered(None)
        return number

    def _commit_position_alone(self, position: str, loading: Collection[str]) -> None:
        """A mutant: what a log would be that moves its position in another transaction than its rows."""
        writer = self._writer
        kept, self._work = self._work, _Work(place=self._work.place)
        record = self._record(position, False, loading)
        self._work = kept
        offsets: list[int] = []
        alone = writer.clients.producer()
        alone.produce(
            self._names.cuts,
            value=record.to_bytes(),
            partition=0,
            on_delivery=lambda _, message: offsets.append(message.offset() or 0),
        )
        alone.flush(ANSWER_S)
        writer.await_cut(offsets[0] + 1)


class _Aborting:
    """Within it an error ends the transaction, and Kafka's become raypipe's."""

    def __init__(self, transaction: KafkaLogTransaction) -> None:
        self._transaction = transaction

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            found = self._transaction.give_up(error)
            if found is not None:
                raise found from error


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
