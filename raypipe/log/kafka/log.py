"""The log in Kafka: what ``raypipe.contracts.Log`` asks, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from raypipe.codec import Compression
from raypipe.contracts import LogBatch, LogSlice
from raypipe.errors import InvariantBroken, OutcomeUnknown, RaypipeError, Unavailable
from raypipe.kafka.clients import ANSWER_S
from raypipe.log.kafka import reading, retention
from raypipe.log.kafka.address import parse_address
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.debezium import DebeziumJson
from raypipe.log.kafka.failures import explain
from raypipe.log.kafka.fence import Fence
from raypipe.log.kafka.follow import Follower
from raypipe.log.kafka.names import ControlTopics
from raypipe.log.kafka.query import Query
from raypipe.log.kafka.topics import Topics
from raypipe.log.kafka.transaction import KafkaLogTransaction
from raypipe.log.kafka.writer import Writer
from raypipe.model import Claim, Cut, TableName


class KafkaLog:
    """A log in Kafka; see ``raypipe.contracts.Log``.

    Any number of processes may hold one open. Connections are made when they are first needed: one object that only
    reads a slice has a single consumer.

    Args:
        clients: To connect with.
        names: Of the pipeline's own topics.
        identity: Of the log.
        compression: Of the Arrow batches it appends.
    """

    def __init__(self, clients: Clients, names: ControlTopics, identity: str, compression: Compression) -> None:
        self._clients = clients
        self._compression = compression
        self._names = names
        self.identity = identity
        self._query = Query(clients)
        self._topics = Topics(clients, names, self._query)
        self._json = DebeziumJson()
        self._reading = reading.Reading(clients, self._query, self._json)
        self._retention = retention.Retention(clients, names, self._topics, self._append)
        self._follower = Follower(clients, names, identity, self._query)
        self._fence = Fence(
            clients,
            names,
            self._query,
            self._append,
            lambda topic, offset: self._topics.delete_below({(topic, 0): offset}),
        )
        self._plain: Producer | None = None
        self._writers: dict[str, Writer] = {}
        self._transactions: dict[str, KafkaLogTransaction] = {}
        self._told: dict[str, str | None] = {}  # positions this object has answered

    @classmethod
    def create(cls, url: str, pipeline: str, compression: Compression | None = None) -> KafkaLog:
        """Opens the log of a pipeline, made before if there is none.

        Args:
            url: With its secrets filled in.
            pipeline: Its name, the prefix of the topics.
            compression: Instead of the URL's.

        Raises:
            RaypipeError: the URL is wrong.
            Unavailable: the brokers do not answer, or part of the log is missing.
        """
        clients, names = Clients(parse_address(url), pipeline), ControlTopics(pipeline)
        topics = Topics(clients, names, Query(clients))
        identity = topics.identity() or topics.make_control()
        return cls(clients, names, identity, compression or clients.address.compression)

    @classmethod
    def open(cls, url: str, pipeline: str, compression: Compression | None = None) -> KafkaLog:
        """Opens the log of a pipeline; see ``create``.

        Raises:
            RaypipeError: the URL is wrong.
            Unavailable: there is none, or it does not answer.
        """
        clients, names = Clients(parse_address(url), pipeline), ControlTopics(pipeline)
        identity = Topics(clients, names, Query(clients)).await_identity()
        if identity is None:
            raise Unavailable(
                f"There is no log of pipeline {pipeline!r} at {clients.place}.",
                remedy="raypipe run makes it.",
                log=clients.place,
            )
        return cls(clients, names, identity, compression or clients.address.compression)

    @classmethod
    def exists(cls, url: str, pipeline: str) -> bool:
        """Whether a pipeline has a log there; nothing is made.

        Raises:
            Unavailable: the brokers do not answer.
        """
        clients = Clients(parse_address(url), pipeline)
        return Topics(clients, ControlTopics(pipeline), Query(clients)).identity() is not None

    @classmethod
    def require(cls, url: str, pipeline: str, tables: Collection[TableName]) -> None:
        """Makes sure, without changing anything, that the brokers answer and would take the pipeline's topics.

        Raises:
            RaypipeError: the URL is wrong, or names tables that are not the pipeline's.
            Unavailable: the brokers do not answer or refuse.
        """
        address = parse_address(url)
        address.require_tables(tables)
        clients = Clients(address, pipeline)
        Topics(clients, ControlTopics(pipeline), Query(clients)).rehearse()

    def claim(self, pipeline: str) -> Claim:
        """Begins a run: fences every older run of the pipeline, durably, and returns the right to write.

        Raises:
            RaypipeError: the log is another pipeline's.
        """
        self._require_idle()
        return self._fence.claim(pipeline)

    def renew(self, claim: Claim) -> Claim:
        """The next generation within the same run, for a writer that starts again.

        Raises:
            Fenced: a later run has begun.
        """
        self._require_idle()
        return self._fence.renew(claim)

    def begin(self, instance: str, claim: Claim) -> KafkaLogTransaction:
        """Starts a transaction of the instance's reader and makes the claim's generation the lowest that may write.

        Raises:
            Fenced: a later run or generation has begun.
            OutcomeUnknown: a writer before this one committed after ``position`` was asked: ask again.
            Unavailable: the log does not answer.
        """
        held = self._transactions.get(instance)
        if held is not None and held.is_open:
            raise InvariantBroken(
                f"A transaction of instance {instance} was begun beside an unfinished one.",
                remedy="Commit or abort it first, or open another log object.",
            )
        writer = self._writers.get(instance)
        if writer is not None and (writer.claim != claim or (held is not None and held.broken)):
            self._writers.pop(instance).close()
            writer = None
        if writer is None:
            writer = Writer(self._clients, self._names, self._follower, self._fence, self._topics, instance, claim)
            self._writers[instance] = writer
            self._check_position(instance, writer)
        self._transactions[instance] = KafkaLogTransaction(writer, self._names, self._compression, self._json)
        return self._transactions[instance]

    def prepare(self, instance: str, claim: Claim) -> None:
        """See ``raypipe.contracts.CanPrepare``: the broker lets a writer in after many round trips."""
        self.begin(instance, claim).abort()

    def position(self, instance: str) -> str | None:
        """Position last committed for an instance, None if there is none."""
        state = self._follower.sync().now.instances.get(instance)
        self._told[instance] = state.position if state is not None else None
        return self._told[instance]

    def cuts(self, after: int = 0, limit: int = 1000) -> list[Cut]:
        """Cuts with a number above ``after``, oldest first, ``limit`` at most."""
        return self._follower.look().cuts(after, limit)

    def cut(self, number: int) -> Cut | None:
        """The cut of that number, None if it is unknown (forgotten, or of another log)."""
        history = self._follower.look()
        if number > history.last_number:
            history = self._follower.sync()
        return history.cut(number)

    def last_cut(self) -> Cut | None:
        """The newest cut."""
        return self._follower.sync().last()

    def known_cut(self) -> Cut | None:
        """The newest cut that has come to this object by itself; asks nobody."""
        return self._follower.look().last()

    def slices(self, after: Cut | None, upto: Cut, topics: Collection[str], max_bytes: int) -> list[LogSlice]:
        """Splits what lies between two cuts into consecutive slices of about ``max_bytes``, never inside a batch.

        ``after=None`` begins with the oldest batch still kept.

        Raises:
            SourceGap: a cut, or part of what lies between, is no longer there.
        """
        history = self._follower.look()
        if upto.number > history.last_number:
            history = self._follower.sync()
        return reading.slices(self._clients.place, history, after, upto, topics, max_bytes)

    def read(self, part: LogSlice) -> Iterator[LogBatch]:
        """Batches of a slice; those of one instance come in the order in which its reader appended them.

        Raises:
            Corrupt: a batch is missing or not what was written.
            SourceGap: part of the slice was forgotten.
        """
        return self._reading.read(part)

    def load_begins(self, topic: str) -> int | None:
        """Offset of the newest TRUNCATE batch still kept, in the topic's first partition; None if forgotten."""
        return retention.load_begins(self._follower.sync(), topic)

    def retain(self, oldest: Cut) -> int:
        """Forgets batches every sink has committed: those below the cut. Returns the bytes set free."""
        self._require_idle()
        return self._retention.retain(self._follower.look(), oldest)

    def size(self) -> int:
        """Bytes of all batches kept now, as far as this object has heard; asks nobody."""
        return retention.kept_bytes(self._follower.look())

    def write_note(self, key: str, text: str | None) -> None:
        """Keeps a small text beside the log (status, requests); None removes it. Last write wins, not fenced."""
        offset = self._append(self._names.notes, key.encode(), None if text is None else text.encode())
        self._follower.look()
        self._follower.note(key, text, offset)

    def notes(self, prefix: str) -> Mapping[str, str]:
        """Notes whose key begins with a prefix; those of others as far as this object has heard."""
        self._follower.look()
        return {key: text for key, text in self._follower.notes.items() if key.startswith(prefix)}

    def close(self) -> None:
        """Ends connections; forgets an unfinished transaction; idempotent."""
        for transaction in self._transactions.values():
            with suppress(RaypipeError):
                transaction.abort()
        for writer in self._writers.values():
            writer.close()
        self._transactions.clear()
        self._writers.clear()
        if self._plain is not None:
            self._plain = None
        self._follower.close()
        self._reading.close()
        self._query.close()
        self._json.close()
        self._retention.close()
        self._topics.close()

    def _check_position(self, instance: str, writer: Writer) -> None:
        """What ``position`` answered must still be true now that nobody else can commit for the instance."""
        if instance in self._told and self._told.pop(instance) != writer.state.position:
            self._writers.pop(instance).close()
            raise OutcomeUnknown(
                f"The reader of instance {instance} before this one was still committing to log {self._clients.place}.",
                remedy="The reader starts again from the position that the log now says.",
                instance=instance,
                log=self._clients.place,
            )

    def _append(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        """Appends a record outside of transactions; returns its offset once it is durable."""
        if self._plain is None:
            self._plain = self._clients.producer()
        found: list[Message] = []
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(error)
            else:
                found.append(message)

        self._plain.produce(topic, value=value, key=key, partition=0, on_delivery=delivered)
        left = self._plain.flush(ANSWER_S)
        if found:
            return found[0].offset() or 0
        if left or not failures:
            self._plain.purge()
            failures.append(self._clients.last_error or KafkaError(KafkaError._TIMED_OUT))
        if failures[0].fatal():
            self._plain = None
        raise explain(self._clients.place, KafkaException(failures[0]), topic)

    def _require_idle(self) -> None:
        if any(transaction.is_open for transaction in self._transactions.values()):
            raise InvariantBroken(
                f"Log {self._clients.place} was asked to write beside an unfinished transaction.",
                remedy="Commit or abort it first, or open another log object.",
            )
