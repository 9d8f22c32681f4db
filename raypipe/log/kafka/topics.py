"""Makes the topics of a pipeline, and finds out when somebody else has touched them."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from raypipe.errors import Kind, RaypipeError, SourceGap, Unavailable
from raypipe.kafka.clients import ANSWER_S, MESSAGE_BYTES, topic_id
from raypipe.kafka.errors import error_of
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.failures import RECOVER, explain
from raypipe.log.kafka.names import ControlTopics, kafka_topic
from raypipe.log.kafka.query import KNOWN_EVERYWHERE_S, Query
from raypipe.log.kafka.records import TopicEntry

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# A topic is asked for again after this until it has leaders.
_AGAIN_S = 0.02
# A check of the pipeline file waits this long for the brokers.
_REHEARSAL_S = 8.0

# Nothing is deleted but by raypipe.
_KEPT = {"retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": str(MESSAGE_BYTES)}
# Deleted records free disk space a segment at a time, so a segment bounds what is kept for nothing.
_TABLE = _KEPT | {"cleanup.policy": "delete", "segment.bytes": str(128 << 20)}
_APPENDED = _KEPT | {"cleanup.policy": "delete", "segment.bytes": str(16 << 20)}
# Without the short segments and times a compacted topic of a few keys would be read from its first day on.
_COMPACTED = _KEPT | {
    "cleanup.policy": "compact",
    "segment.bytes": str(4 << 20),
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
    "delete.retention.ms": "600000",
}


@dataclass(frozen=True, kw_only=True)
class Described:
    """A topic as Kafka has it; ``led`` if every partition has a leader, so that it can be used."""

    id: str
    partitions: int
    led: bool


class Topics:
    """The topics of one pipeline.

    Args:
        clients: To connect with.
        names: Of its own topics.
        query: For questions.
    """

    def __init__(self, clients: Clients, names: ControlTopics, query: Query) -> None:
        self._clients = clients
        self._names = names
        self._query = query
        self._made: AdminClient | None = None

    @property
    def _admin(self) -> AdminClient:
        if self._made is None:
            self._made = self._clients.admin()
        return self._made

    def identity(self) -> str | None:
        """Of the log: the id that Kafka gave the cuts topic when it was made; None if there is no log.

        Raises:
            Unavailable: no answer, or part of the pipeline's own topics is missing.
        """
        return self._identity(self.describe(self._control))

    def await_identity(self) -> str | None:
        """Like ``identity``, but waits a little for a log that was just made."""
        return self._identity(self._describe_all(self._control))

    @property
    def _control(self) -> tuple[str, ...]:
        return (self._names.cuts, self._names.positions, self._names.claims, self._names.notes)

    def _identity(self, found: Mapping[str, Described]) -> str | None:
        missing = sorted(set(self._control) - set(found))
        if self._names.cuts not in found:
            return None
        if missing:
            raise Unavailable(
                f"Log {self._clients.place} lacks {', '.join(missing)}: it is being made, or somebody deleted them.",
                remedy=f"If they do not appear: {RECOVER}",
                log=self._clients.place,
            )
        return found[self._names.cuts].id

    def make_control(self) -> str:
        """Makes the pipeline's own topics that are missing, the cuts topic last; returns the log's identity."""
        self._create({self._names.claims: (1, _APPENDED), self._names.notes: (1, _COMPACTED)})
        self._create({self._names.positions: (1, _COMPACTED)})
        return self._create({self._names.cuts: (1, _APPENDED)})[self._names.cuts].id

    def rehearse(self) -> None:
        """Asks the brokers whether they would make the pipeline's topics, and makes none.

        Raises:
            RaypipeError: they would not.
            Unavailable: no answer within seconds.
        """
        try:
            there = self._admin.list_topics(timeout=_REHEARSAL_S).topics
        except KafkaException as error:
            raise self._explained(error_of(error), self._names.cuts) from error
        if self._names.cuts in there:
            return
        wanted = [self._new(self._names.cuts, 1, _APPENDED)]
        futures = self._admin.create_topics(wanted, request_timeout=_REHEARSAL_S, validate_only=True)
        for name, future in futures.items():
            with suppress(_TopicExists):
                self._result(future, name)

    def make_table(self, topic: str, identity: str) -> TopicEntry:
        """Makes the topic of a table that this log has never written to.

        Raises:
            RaypipeError: there is one with messages in it, which are not this log's.
        """
        name = kafka_topic(topic)
        found = self._create({name: (self._clients.address.partitions, _TABLE)})[name]
        # Left over from a writer that died before its first commit it is as good as new; with committed messages in it,
        # it belongs to an earlier log or to somebody else.
        for partition in range(found.partitions):
            first, end = self._query.bounds(name, partition)
            if end > first and self._query.read(name, first, end, partition):
                raise RaypipeError(
                    f"Topic {name} of log {self._clients.place} holds messages that log {identity} did not write.",
                    kind=Kind.PIPELINE_FILE,
                    remedy="Delete the topic if it is a leftover of an earlier log, or give the pipeline another name.",
                    topic=name,
                )
        return TopicEntry(id=found.id, partitions=found.partitions)

    def check_tables(self, known: Mapping[str, TopicEntry]) -> None:
        """Checks that topics are still those that this log made.

        Raises:
            SourceGap: one was deleted, or deleted and made anew.
        """
        names = {kafka_topic(topic): topic for topic in known}
        found = self._describe_all(names)
        for name, topic in names.items():
            there, made = found.get(name), known[topic]
            if there is None or there.id != made.id:
                what = "is gone" if there is None else "was deleted and made anew"
                raise SourceGap(
                    f"Topic {name} of log {self._clients.place} {what}: changes that sinks may need went with it.",
                    remedy=f"Forbid others to delete topics of this pipeline. {RECOVER}",
                    topic=name,
                )
            if there.partitions > made.partitions:
                logger.warning(
                    "partitions were added to a topic; they stay unused, because a key must stay in its partition: for"
                    " more, stop the pipeline, delete its topics and run again with the option partitions",
                    extra={"topic": name, "partitions": there.partitions, "used": made.partitions},
                )

    def describe(self, names: Collection[str]) -> dict[str, Described]:
        """The topics that exist, by name."""
        found: dict[str, Described] = {}
        futures = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=ANSWER_S)
        for name, future in futures.items():
            try:
                described = self._result(future, name)
            except _NoSuchTopic:
                continue
            found[name] = Described(
                id=topic_id(described.topic_id),
                partitions=len(described.partitions),
                led=all(partition.leader is not None for partition in described.partitions),
            )
        return found

    def end(self, topic: str) -> int:
        """End of a topic's first partition, transactions that have not ended included.

        Raises:
            Unavailable: no answer.
        """
        try:
            return self._end(topic)
        except Unavailable:
            # A client that has seen a leader go may ask with what it knew of that one: a new client knows nothing yet.
            self._made = None
            return self._end(topic)

    def _end(self, topic: str) -> int:
        place = TopicPartition(topic, 0)
        futures = self._admin.list_offsets(
            {place: OffsetSpec.latest()},
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=ANSWER_S,
        )
        (future,) = futures.values()
        try:
            return int(self._result(future, topic).offset)
        except _NoSuchTopic:
            raise self._explained(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), topic) from None

    def unsettled(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Partitions with a transaction that has not ended, and the offset where the first of them begins.

        Those that cannot be asked about are left out.

        Args:
            places: Topic in Kafka and partition.
        """
        if not places:
            return {}
        stable, ends = (
            self._ends(places, level) for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
        )
        return {place: offset for place, offset in stable.items() if offset < ends.get(place, offset)}

    def _ends(self, places: Sequence[tuple[str, int]], level: IsolationLevel) -> dict[tuple[str, int], int]:
        asked = {TopicPartition(name, number): OffsetSpec.latest() for name, number in places}
        found: dict[tuple[str, int], int] = {}
        for place, future in self._admin.list_offsets(asked, isolation_level=level, request_timeout=ANSWER_S).items():
            with suppress(KafkaException):
                found[place.topic, place.partition] = int(future.result().offset)
        return found

    def delete_below(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Deletes the messages below an offset, for partitions by (name in Kafka, partition)."""
        if not offsets:
            return
        wanted = [TopicPartition(name, partition, offset) for (name, partition), offset in offsets.items()]
        futures = self._admin.delete_records(wanted, request_timeout=ANSWER_S, operation_timeout=ANSWER_S)
        for partition, future in futures.items():
            try:
                self._result(future, partition.topic)
            except _NoSuchTopic:
                raise self._explained(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), partition.topic) from None

    def close(self) -> None:
        """Ends the connection."""
        self._made = None

    def _describe_all(self, names: Collection[str]) -> dict[str, Described]:
        """The topics that exist; one that is missing is asked for again, because brokers hear of topics one by one."""
        deadline = time.monotonic() + KNOWN_EVERYWHERE_S
        found: dict[str, Described] = {}
        while missing := [name for name in names if name not in found]:
            found |= self.describe(missing)
            if len(found) == len(names) or time.monotonic() > deadline:
                break
            time.sleep(_AGAIN_S)
        return found

    def _create(self, topics: Mapping[str, tuple[int, Mapping[str, str]]]) -> dict[str, Described]:
        """Makes those topics that are missing and returns all, once they can be used."""
        new = [self._new(name, partitions, config) for name, (partitions, config) in topics.items()]
        futures = self._admin.create_topics(new, request_timeout=ANSWER_S, operation_timeout=ANSWER_S)
        for name, future in futures.items():
            try:
                self._result(future, name)
            except _TopicExists:
                continue
        deadline = time.monotonic() + ANSWER_S
        while True:
            found = self.describe(list(topics))
            if len(found) == len(topics) and all(one.led for one in found.values()):
                return found
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"Log {self._clients.place} made topics that have no leader after {ANSWER_S:.0f} s:"
                    f" {', '.join(sorted(topics))}.",
                    remedy="Check that enough brokers run for their replication factor.",
                )
            time.sleep(_AGAIN_S)

    def _new(self, name: str, partitions: int, config: Mapping[str, str]) -> NewTopic:
        replication = self._clients.address.replication_factor
        return NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=-1 if replication is None else replication,
            config=dict(config),
        )

    def _result(self, future: Future[ResultT], name: str) -> ResultT:
        try:
            return future.result(timeout=2 * ANSWER_S)
        except KafkaException as error:
            inner = error_of(error)
            if inner.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                raise _TopicExists from error
            if inner.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
                raise _NoSuchTopic from error
            raise self._explained(inner, name) from error

    def _explained(self, error: KafkaError, name: str) -> RaypipeError:
        if error.code() == KafkaError.INVALID_REPLICATION_FACTOR:
            return RaypipeError(
                f"Topic {name} cannot be made: {error.str()}",
                kind=Kind.PIPELINE_FILE,
                remedy="Set replication_factor in the log's URL to the number of brokers or less.",
            )
        if error.code() == KafkaError.TOPIC_EXCEPTION:
            return RaypipeError(
                f"Topic {name} cannot be made: {error.str()}",
                kind=Kind.PIPELINE_FILE,
                remedy="Kafka takes dots and underscores for one in names: rename the pipeline, source or table.",
            )
        self._admin.poll(0)  # lets the library say what it knows of its connections
        last = self._clients.last_error
        if error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT) and last is not None:
            error = last
        return explain(self._clients.place, error, name)


class _NoSuchTopic(Exception):
    pass


class _TopicExists(Exception):
    pass
