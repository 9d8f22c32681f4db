"""Questions with an end: offsets of a partition, and everything between two of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from raypipe.errors import Unavailable
from raypipe.kafka.clients import ANSWER_S
from raypipe.kafka.errors import MISSING, error_of, passing
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.failures import explain, explained

# How many messages are taken from the library's queue at a time.
_TAKEN = 1_000
# A question that a broker could not answer yet is asked again after this.
_AGAIN_S = 0.02
# Brokers that are away do not answer at all, and are asked again.
_LEARNT_WITHIN_S = 2.0
# A topic that was just made is not known to every broker at once; one that stays unknown for so long is gone.
KNOWN_EVERYWHERE_S = 3.0


class Query:
    """Asks one question after the other; the consumer behind it is made when the first comes.

    Args:
        clients: To connect with.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._made: Consumer | None = None

    @property
    def _consumer(self) -> Consumer:
        if self._made is None:
            self._made = self._clients.jumping()
        return self._made

    def bounds(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """First offset kept, and the offset before which every transaction has ended.

        Raises:
            Unavailable: no answer.
            SourceGap: there is no such topic.
        """
        began = time.monotonic()
        while True:
            waited_s = time.monotonic() - began
            try:
                bounds = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_S)
                if bounds is not None:
                    return int(bounds[0]), int(bounds[1])
            except KafkaException as error:
                inner = error_of(error)
                patience_s = KNOWN_EVERYWHERE_S if inner.code() in MISSING else ANSWER_S if passing(inner) else 0.0
                if waited_s > patience_s and inner.code() == KafkaError._UNKNOWN_PARTITION:
                    raise self.silent(topic) from error
                if waited_s > patience_s:
                    raise explain(self._clients.place, error, topic) from error
                if inner.code() == KafkaError._UNKNOWN_PARTITION:
                    self._learn(topic)
            if waited_s > ANSWER_S:
                raise self.silent(topic)
            time.sleep(_AGAIN_S)

    def _learn(self, topic: str) -> None:
        """Has the library ask for a topic's leaders anew.

        One that it met half made, on a broker that knew some of its partitions only, stays so in its memory for a
        minute: it is not asked about again while it is known.
        """
        with suppress(KafkaException):
            self._consumer.list_topics(topic, timeout=_LEARNT_WITHIN_S)

    def read(self, topic: str, begin: int, end: int, partition: int = 0) -> list[Message]:
        """Committed messages from ``begin`` to before ``end``, which every transaction must have passed.

        Raises:
            Unavailable: no answer.
            SourceGap: ``begin`` is no longer there.
        """
        if begin >= end:
            return []
        try:
            with explained(self._clients.place, topic):
                self._consumer.assign([TopicPartition(topic, partition, begin)])
                found = self._upto(end, topic)
                self._consumer.unassign()
        except BaseException:
            # What the client has queued about this partition must not answer the next question about it.
            self.close()
            raise
        return found

    def _upto(self, end: int, topic: str) -> list[Message]:
        """What is assigned, to before ``end``."""
        found: list[Message] = []
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            for message in taken(self._consumer, _TAKEN, 0.5):
                error = message.error()
                at = message.offset() or 0
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        self.tolerate(error, topic)
                    elif at >= end:
                        return found
                    continue
                if at < end:
                    found.append(message)
                    deadline = time.monotonic() + ANSWER_S
                if at >= end - 1:
                    return found
        raise self.silent(topic)

    def tolerate(self, error: KafkaError, topic: str) -> None:
        """Lets errors pass that the library mends by itself, raises the others."""
        if not passing(error):
            raise explain(self._clients.place, error, topic)

    def silent(self, topic: str) -> Unavailable:
        """No answer in time; the connection's own last error says why."""
        if self._made is not None:
            self._made.poll(0)  # lets the library say what it knows of its connections
        last = self._clients.last_error
        if last is not None:
            error = explain(self._clients.place, last, topic)
            if isinstance(error, Unavailable):
                return error
        return Unavailable(
            f"Log {self._clients.place} did not answer within {ANSWER_S:.0f} s about topic {topic}.",
            remedy="Check that the brokers run and that the topic has a leader.",
            log=self._clients.place,
        )

    def close(self) -> None:
        """Ends the consumer; idempotent."""
        if self._made is not None:
            self._made.close()
            self._made = None


def taken(consumer: Consumer, most: int, timeout_s: float) -> Sequence[Message]:
    """What the consumer has, waiting only if that is nothing; ``consume`` alone would wait until it has ``most``."""
    first = consumer.poll(timeout_s) if timeout_s > 0 else None
    rest = consumer.consume(most, 0)
    return rest if first is None else [first, *rest]
