"""Messages from the brokers, in runs: those of one partition that came one after the other."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from raypipe.kafka.clients import ANSWER_S, taken
from raypipe.kafka.errors import passing
from raypipe.sources.debezium.failures import explain, silent
from raypipe.sources.debezium.topics import Topics

# Messages taken from the library at a time.
_MOST = 5_000
# Topic and partition.
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Messages of one partition.

    Attributes:
        key: Topic and partition.
        messages: In order; none where the partition's end was met.
        end: Offset behind them; what commits leave at a partition's end, which no message shows, is passed too.
    """

    key: Key
    messages: list[Message]
    end: int


class Fetcher:
    """Fetches partitions from given offsets on.

    Args:
        topics: That make the consumer.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._consumer: Consumer | None = None
        self._first: Message | None = None  # that ended a wait
        self._paused: set[Key] = set()
        self._heard = time.monotonic()

    @property
    def assigned(self) -> bool:
        """Whether it fetches."""
        return self._consumer is not None

    def assign(self, offsets: Mapping[Key, int]) -> None:
        """Has every partition fetched from an offset on; what was fetched before is forgotten."""
        if self._consumer is None:
            self._consumer = self._topics.consumer()
        self._first = None
        self._paused.clear()
        self._consumer.assign([TopicPartition(*key, offset) for key, offset in offsets.items()])

    def pause(self, keys: Collection[Key]) -> None:
        """Fetches nothing of these partitions, and of the others again."""
        assert self._consumer is not None
        wanted = set(keys)
        if stop := wanted - self._paused:
            self._consumer.pause([TopicPartition(*key) for key in stop])
        if go := self._paused - wanted:
            self._consumer.resume([TopicPartition(*key) for key in go])
        self._paused = wanted

    def runs(self, awaited: Collection[Key]) -> Iterator[Run]:
        """What is there, waiting only if that is nothing, and not for long.

        Args:
            awaited: Partitions that more is known to be in.

        Raises:
            SourceGap: an offset is there no more.
            Unavailable: nothing came for too long.
        """
        assert self._consumer is not None
        first, self._first = self._first, None
        found = [*([first] if first is not None else []), *taken(self._consumer, _MOST, 0.0 if first else 0.5)]
        if found:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > ANSWER_S:
            raise silent(self._topics.place, ", ".join(sorted({topic for topic, _ in awaited})), ANSWER_S)
        places = zip(map(Message.topic, found), map(Message.partition, found), map(_failed, found), strict=True)
        for (topic, partition, failed), group in groupby(zip(places, found, strict=True), itemgetter(0)):
            messages = [message for _, message in group]
            key = (topic or "", partition or 0)
            if not failed:
                yield Run(key=key, messages=messages, end=(messages[-1].offset() or 0) + 1)
                continue
            for message in messages:
                yield from self._passed(key, message, awaited)

    def _passed(self, key: Key, message: Message, awaited: Collection[Key]) -> Iterator[Run]:
        error = message.error()
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF:
            yield Run(key=key, messages=[], end=message.offset() or 0)
        elif not passing(error):
            raise explain(self._topics.place, error, key[0] or next(iter(awaited), key)[0])

    def begin(self) -> None:
        """Something is awaited from now on."""
        self._heard = time.monotonic()

    def wait(self, timeout_s: float) -> bool:
        """Returns when a message came, at the latest after the timeout; whether one did."""
        assert self._consumer is not None
        deadline = time.monotonic() + timeout_s
        while self._first is None and (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is None:
                continue
            error = message.error()
            if error is None:
                self._first = message
            elif error.code() != KafkaError._PARTITION_EOF:
                return True  # the poll that follows tells what is wrong
        return self._first is not None

    def close(self) -> None:
        """Ends the consumer; idempotent."""
        self._first = None
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _failed(message: Message) -> bool:
    return message.error() is not None
