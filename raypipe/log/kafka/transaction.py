"""One transaction of a reader: its batches, position and cut, in one Kafka transaction."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message

from raypipe import faults
from raypipe.codec import Compression, encode, split
from raypipe.errors import InvariantBroken, LimitExceeded, RaypipeError, Unavailable
from raypipe.log.kafka.clients import ANSWER_S, MESSAGE_BYTES
from raypipe.log.kafka.failures import gap
from raypipe.log.kafka.messages import HEADER, Header
from raypipe.log.kafka.names import ControlTopics, kafka_topic, partition_key
from raypipe.log.kafka.records import CutRecord, End, Mark, TopicEntry
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
    delivered: int = 0
    failure: KafkaError | None = None
    cut_offset: int = -1


class KafkaLogTransaction:
    """See ``raypipe.contracts.LogTransaction``; made by ``KafkaLog.begin``.

    Args:
        writer: To write with.
        names: Of the pipeline's own topics.
        compression: Of the payloads.
    """

    def __init__(self, writer: Writer, names: ControlTopics, compression: Compression) -> None:
        self._writer = writer
        self._names = names
        self._compression = compression
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
            except KafkaException:
                # The next writer of the instance ends the transaction when it takes the transactional id.
                self.broken = True

    def _require_open(self) -> None:
        if not self._open:
            raise InvariantBroken(f"A log transaction of instance {self._writer.instance} was used after its end.")

    def _begin(self) -> None:
        if not self._begun:
            self._writer.producer.begin_transaction()
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
        work, key = self._work, partition_key(topic, share.partition)
        name = kafka_topic(topic)
        for part in split(share.batch, _BATCH_BYTES):
            payload = encode(part, self._compression)
            if payload.size + _OVERHEAD_BYTES > MESSAGE_BYTES:
                raise LimitExceeded(
                    f"A change of table {part.schema.table} takes {payload.size} bytes; the Kafka log holds"
                    f" {MESSAGE_BYTES - _OVERHEAD_BYTES} at most.",
                    remedy="Leave the table out of the pipeline, or keep such values outside of the database.",
                    table=str(part.schema.table),
                    bytes=payload.size,
                )
            sequence = work.counts.get(key, self._count(key))
            work.counts[key] = sequence + 1
            if not share.copy:
                work.rows += part.num_rows
            sent = _Sent(
                key=key,
                place=work.place,
                sequence_end=sequence + 1,
                bytes=payload.size,
                load=share.partition == 0 and _begins_load(part.rows),
            )
            header = Header(log=self._writer.identity, place=work.place, sequence=sequence, copy=share.copy)
            work.sent.append(sent)
            self._produce(
                name,
                payload.to_pybytes(),
                share.partition,
                [(HEADER, header.to_bytes())],
                partial(self._delivered, sent),
            )

    def _count(self, key: str) -> int:
        return self._writer.state.ends.get(key, (0, 0))[1]

    def _produce(self, name: str, value: bytes, partition: int, headers: object, delivered: object) -> None:
        """Hands a message to the library, waiting while its queue is full: so the pressure reaches the source."""
        deadline = time.monotonic() + ANSWER_S
        producer = self._writer.producer
        while True:
            try:
                producer.produce(name, value=value, partition=partition, headers=headers, on_delivery=delivered)
            except BufferError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"Log {self._writer.place} has taken nothing for {ANSWER_S:.0f} s.",
                        remedy="Check that the brokers run; the reader starts again where the log stands.",
                    ) from None
                producer.poll(0.05)
                continue
            self._writer.serve()
            self._require_delivering()
            return

    def _delivered(self, sent: _Sent, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._work.failure = self._work.failure or error
            return
        sent.end = (message.offset() or 0) + 1
        self._work.delivered += 1

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
                writer.producer.commit_transaction(ANSWER_S)
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
        if not self._begun:
            return
        kept, self._work = self._work, _Work(place=self._work.place)
        self._writer.producer.abort_transaction(ANSWER_S)
        self._begun = False
        self._begin()
        self._send_record(self._record(position, False, loading))
        self._deliver()
        self._commit()
        self._work = kept


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
    return bool(pc.any(pc.equal(rows.column(OP), int(Op.TRUNCATE))).as_py())


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
