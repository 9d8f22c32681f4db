"""Topics of a Kafka: which there are, where they begin and end, and what stands in them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from raypipe.errors import SchemaMismatch
from raypipe.kafka.clients import ANSWER_S, CONSUMER_BYTES, base_settings, consumer_settings, taken, topic_id
from raypipe.kafka.errors import LastError, error_of, passing
from raypipe.sources.debezium.address import Address
from raypipe.sources.debezium.failures import explain, missing, silent

# A broker holds the answer to a fetch that finds nothing for so long; a new message ends that at once.
_FETCH_WAIT_MS = 100
# What a broker cannot tell yet is asked for again after this.
_AGAIN_S = 0.05
# How many names a message about a missing topic lists.
_NAMED = 30


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One that exists.

    Attributes:
        id: That Kafka gave it when it was made.
        partitions: How many.
    """

    id: str
    partitions: int


class Topics:
    """Asks about topics; connects when the first question comes.

    Args:
        address: Of the Kafka.
        instance: For names that show in the brokers' metrics.
    """

    def __init__(self, address: Address, instance: str) -> None:
        self._address = address
        self._instance = instance
        self._made: AdminClient | None = None
        self._sampler: Consumer | None = None
        self._errors = LastError()

    @property
    def place(self) -> str:
        """Of the Kafka, without secrets."""
        return str(self._address)

    @property
    def _admin(self) -> AdminClient:
        if self._made is None:
            self._made = AdminClient(self._base())
        return self._made

    def close(self) -> None:
        """Ends the connections; idempotent."""
        self._made = None
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def describe(self, topics: Collection[str]) -> dict[str, Topic]:
        """Those that exist.

        Raises:
            Unavailable: no answer, or not for this user.
        """
        found: dict[str, Topic] = {}
        futures = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=ANSWER_S)
        for topic, future in futures.items():
            try:
                described = future.result(timeout=2 * ANSWER_S)
            except KafkaException as error:
                if missing(error_of(error)):
                    continue
                raise explain(self.place, error, topic) from error
            found[topic] = Topic(id=topic_id(described.topic_id), partitions=len(described.partitions))
        return found

    def require(self, topics: Collection[str]) -> dict[str, Topic]:
        """All of them.

        Raises:
            SchemaMismatch: one does not exist; the message lists those that do.
            Unavailable: no answer.
        """
        found = self.describe(topics)
        lacking = sorted(set(topics) - set(found))
        if lacking:
            raise SchemaMismatch(
                f"Source {self._instance!r} has no topic {lacking[0]}.",
                remedy=f"Topics whose names begin like it: {', '.join(self._beginning()) or 'none'}.",
                topic=lacking[0],
            )
        return found

    def _beginning(self) -> list[str]:
        try:
            there = self._admin.list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            raise explain(self.place, error, self._address.prefix) from error
        return sorted(name for name in there if name.startswith(f"{self._address.prefix}."))[:_NAMED]

    def ends(self, topics: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """For each partition the offset before which every transaction has ended; ``topics`` to how many partitions."""
        return self._offsets(topics, OffsetSpec.latest())

    def begins(self, topics: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """For each partition the first offset that is kept."""
        return self._offsets(topics, OffsetSpec.earliest())

    def _offsets(self, topics: Mapping[str, int], spec: OffsetSpec) -> dict[str, tuple[int, ...]]:
        wanted = {
            TopicPartition(topic, partition): spec
            for topic, partitions in topics.items()
            for partition in range(partitions)
        }
        if not wanted:
            return {}
        found: dict[str, list[int]] = {topic: [0] * partitions for topic, partitions in topics.items()}
        deadline = time.monotonic() + ANSWER_S
        while wanted:
            futures = self._admin.list_offsets(
                wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_S
            )
            for partition, future in futures.items():
                try:
                    found[partition.topic][partition.partition] = int(future.result(timeout=2 * ANSWER_S).offset)
                    del wanted[partition]
                except KafkaException as error:
                    # A broker that was replaced a moment ago is asked again.
                    if not passing(error_of(error)) or time.monotonic() > deadline:
                        raise explain(self.place, error, partition.topic) from error
            if wanted:
                time.sleep(_AGAIN_S)
        return {topic: tuple(offsets) for topic, offsets in found.items()}

    def consumer(self) -> Consumer:
        """Reads what is committed, of partitions assigned by hand."""
        return Consumer(self._base() | consumer_settings(f"raypipe-{self._instance}", _FETCH_WAIT_MS, CONSUMER_BYTES))

    def span(self, topic: str, partition: int, begin: int, end: int) -> list[Message]:
        """All messages of a partition between two offsets; blocks until they are there.

        Raises:
            Unavailable: no answer.
        """
        begins, ends = [0] * (partition + 1), [0] * (partition + 1)
        begins[partition], ends[partition] = begin, end
        return self.sample(topic, begins, ends, end - begin)

    def sample(self, topic: str, begins: Sequence[int], ends: Sequence[int], messages: int) -> list[Message]:
        """Some messages of each partition, from ``begins`` on, at most up to ``ends``; blocks until they are there.

        Raises:
            Unavailable: no answer.
        """
        left = {partition for partition, (begin, end) in enumerate(zip(begins, ends, strict=True)) if begin < end}
        if not left:
            return []
        if self._sampler is None:
            self._sampler = self.consumer()
        try:
            self._sampler.assign([TopicPartition(topic, partition, begins[partition]) for partition in left])
            found = self._sampled(self._sampler, topic, left, ends, messages)
            self._sampler.unassign()
        except BaseException:
            # What the client has queued about these partitions must not answer the next question about them.
            self._sampler.close()
            self._sampler = None
            raise
        return found

    def _sampled(
        self, consumer: Consumer, topic: str, left: set[int], ends: Sequence[int], messages: int
    ) -> list[Message]:
        """Of what is assigned; ``left`` names the partitions."""
        found: list[Message] = []
        counts = dict.fromkeys(left, 0)
        deadline = time.monotonic() + ANSWER_S
        while left:
            for message in taken(consumer, 500, 0.5):
                partition, offset = message.partition() or 0, message.offset() or 0
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if not passing(error):
                        raise explain(self.place, error, topic)
                    continue
                deadline = time.monotonic() + ANSWER_S
                if partition not in left:
                    continue
                if error is None and offset < ends[partition]:
                    found.append(message)
                    counts[partition] += 1
                if error is not None or offset >= ends[partition] - 1 or counts[partition] >= messages:
                    left.discard(partition)
            if left and time.monotonic() > deadline:
                raise silent(self.place, topic, ANSWER_S)
        return found

    def _base(self) -> dict[str, Any]:
        kafka = self._address.kafka
        return base_settings(kafka.servers, kafka.security, self._instance, self._errors.note)


def stamp_of(message: Message) -> int:
    """Milliseconds since 1970; 0 if the message has none."""
    kind, stamp_ms = message.timestamp()
    return 0 if kind == TIMESTAMP_NOT_AVAILABLE else int(stamp_ms)


def stamps_of(messages: Sequence[Message]) -> npt.NDArray[np.int64]:
    """The same of many."""
    told = np.array(list(map(Message.timestamp, messages)), np.int64).reshape(-1, 2)
    stamps: npt.NDArray[np.int64] = np.where(told[:, 0] == TIMESTAMP_NOT_AVAILABLE, 0, told[:, 1])
    return stamps
