"""Forgets what every sink has committed, and shows how far that is as the offsets of a consumer group."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from raypipe import faults
from raypipe.kafka.clients import ANSWER_S
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.fence import Append
from raypipe.log.kafka.fold import Base
from raypipe.log.kafka.follow import BASE_PREFIX
from raypipe.log.kafka.history import History
from raypipe.log.kafka.names import ControlTopics, kafka_topic, topic_and_partition
from raypipe.log.kafka.records import End
from raypipe.log.kafka.topics import Topics
from raypipe.model import Cut, TableName

logger = logging.getLogger(__name__)


class Retention:
    """Deletes records of one pipeline.

    Args:
        clients: To connect with.
        names: Of the pipeline's own topics.
        topics: That deletes.
        append: For the base.
    """

    def __init__(self, clients: Clients, names: ControlTopics, topics: Topics, append: Append) -> None:
        self._clients = clients
        self._names = names
        self._topics = topics
        self._append = append
        self._admin: AdminClient | None = None
        self._publishing: Future[object] | None = None

    def retain(self, history: History, oldest: Cut) -> int:
        """Forgets the batches that the cut covers and the cuts before it; returns the bytes set free.

        The base is written first: it says what the deleted records came to. Whoever dies between the two leaves records
        that nobody needs, and the next one deletes them. A cut that the log does not know forgets nothing.
        """
        before = history.base
        if oldest.log != history.now.log or oldest.number <= before.oldest:
            return 0
        state = history.state_at(oldest.number)
        if state is None:
            return 0
        faults.point("log.retain.before")
        ends = state.cut_ends()
        below = history.state_before(oldest.number)
        assert below is not None
        for number, record in history.records_after(below.number):
            if number >= oldest.number:
                break
            below.apply(number, record)
        base = Base(fold=below, oldest=oldest.number, forgotten=ends, forgotten_bytes=state.bytes)
        self._append(self._names.positions, f"{BASE_PREFIX}{oldest.number}".encode(), base.to_bytes())
        if before.oldest:
            self._append(self._names.positions, f"{BASE_PREFIX}{before.oldest}".encode(), None)
        history.forget(base)
        grown = {key: end[0] for key, end in ends.items() if before.forgotten.get(key) != end}
        tables = {_place(key): offset for key, offset in grown.items() if not self._keeps(key)}
        self._topics.delete_below(tables | {(self._names.cuts, 0): oldest.number - 1})
        self._publish(grown)
        faults.point("log.retain.after")
        return state.bytes - before.forgotten_bytes

    def _keeps(self, key: str) -> bool:
        topic, _ = topic_and_partition(key)
        parts = topic.removeprefix(f"{self._names.pipeline}.").split(".", 2)
        return len(parts) == 3 and self._clients.address.keeps(TableName(*parts))

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._publishing is not None:
            with suppress(Exception):
                self._publishing.result(timeout=1.0)
        self._admin = None

    def _publish(self, offsets: Mapping[str, int]) -> None:
        """Commits the offsets under the pipeline's name, for tools that watch the lag of consumer groups.

        Nothing depends on it, so nobody waits for it and a failure is only logged.
        """
        if not offsets or (self._publishing is not None and not self._publishing.done()):
            return
        if self._admin is None:
            self._admin = self._clients.admin()
        places = [TopicPartition(*_place(key), offset) for key, offset in offsets.items()]
        try:
            futures = self._admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(self._names.pipeline, places)], request_timeout=ANSWER_S
            )
        except KafkaException as error:
            logger.warning("consumer lag was not published", extra={"cause": str(error)})
            return
        (self._publishing,) = futures.values()
        self._publishing.add_done_callback(_log_failure)


def _log_failure(future: Future[object]) -> None:
    error = future.exception()
    if error is not None:
        logger.warning("consumer lag was not published", extra={"cause": str(error)})


def _place(key: str) -> tuple[str, int]:
    topic, partition = topic_and_partition(key)
    return kafka_topic(topic), partition


def kept_bytes(history: History) -> int:
    """Bytes of all batches kept now, those beyond the last cut too."""
    return history.now.bytes + history.now.pending_bytes - history.base.forgotten_bytes


def load_begins(history: History, topic: str) -> int | None:
    """Offset (in the topic's first partition) of the newest TRUNCATE that is kept."""
    offset = history.now.loads.get(topic)
    forgotten: End = history.base.forgotten.get(topic, (0, 0))
    return None if offset is None or offset < forgotten[0] else offset
