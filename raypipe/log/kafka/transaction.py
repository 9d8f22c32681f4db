"""One transaction of a reader: its batches, position and cut, in one Kafka transaction."""

from __future__ import annotations

import time
from collections.abc import Collection

from confluent_kafka import KafkaException

from raypipe import faults
from raypipe.codec import Compression
from raypipe.errors import InvariantBroken, RaypipeError
from raypipe.kafka.clients import ANSWER_S
from raypipe.log.kafka.debezium import DebeziumJson
from raypipe.log.kafka.names import ControlTopics
from raypipe.log.kafka.records import CutRecord
from raypipe.log.kafka.sending import Sending
from raypipe.log.kafka.writer import Writer
from raypipe.model import ChangeBatch, Cut


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
        self._sending = Sending(writer, compression, json)
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
            self._sending.send(topic, entry.partitions, batch)
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
            self._prepare(position, whole, loading)
            faults.point("log.commit.before")
        number = self._commit()
        self._sending.committed()
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
            self._writer.next_offsets.clear()  # what was given up left messages and markers behind
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

    def _prepare(self, position: str, boundary: bool, loading: Collection[str]) -> None:
        """Everything of a commit but its last word: the broker has rows and record, and nobody sees them."""
        self._begin()
        if not self._sending.foretell():
            self._sending.deliver()
        record = self._record(self._sending, position, boundary, loading)
        self._sending.send_record(self._names.cuts, record.to_bytes())
        self._sending.deliver()

    def _record(self, sending: Sending, position: str, boundary: bool, loading: Collection[str]) -> CutRecord:
        writer = self._writer
        marks, loads = sending.ends()
        return CutRecord(
            instance=writer.instance,
            generation=writer.claim.generation,
            number=writer.state.records + 1,
            boundary=boundary,
            position=position,
            loading=tuple(sorted(loading)),
            marks=tuple(marks),
            rows=sending.rows,
            place=sending.place,
            loads=loads,
            topics=dict(writer.fresh),
            at=time.time(),
        )

    def _commit(self) -> int:
        """Commits and waits until every reader can see it; returns the number of the record."""
        writer, deadline = self._writer, time.monotonic() + ANSWER_S
        number = self._sending.record_offset + 1
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
        record = self._record(self._sending.bare(), position, False, loading)
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
