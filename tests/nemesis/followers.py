"""Followers of a log that is being written: one by Kafka's records, one from cut to cut; both tell what they got."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from anomalies import Offset, Poll, Record
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from raypipe.codec import decode
from raypipe.errors import Directive, RaypipeError
from raypipe.log import open_existing_log
from raypipe.model import OP, ChangeBatch, Op, TableName

AGAIN_S = 0.02
Row = tuple[object, ...]


def topic_of(pipeline: str, table: str) -> str:
    return TableName("shop", "public", table).topic(pipeline)


def value_of(table: str, weight: int, row: dict[str, object]) -> tuple[str, str, object]:
    """What the journal says of the same change."""
    return table, "+" if weight > 0 else "-", row["token"]


class Follower:
    """A thread that polls, and what it got so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.polls: list[Poll] = []
        self.failure: BaseException | None = None
        self.again: list[str] = []  # errors that a new start mended
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            self.failure = error

    def _follow(self) -> None:
        raise NotImplementedError


class RecordFollower(Follower):
    """Reads every partition from its beginning, committed records only, with nothing of raypipe's but its encoding.

    Attributes:
        folded: How often each row is there now, by partition, table and row.
    """

    def __init__(self, security: dict[str, object], pipeline: str, tables: Sequence[str], partitions: int) -> None:
        super().__init__("records")
        self.folded: Counter[tuple[str, str, Row]] = Counter()
        self._tables = {topic_of(pipeline, table): table for table in tables}
        self._settings = security | {
            "group.id": f"{pipeline}.nemesis",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 100,
            "reconnect.backoff.max.ms": 500,
            "logger": _silent,
        }
        self._partitions = [(topic, number) for topic in self._tables for number in range(partitions)]

    def rows(self) -> Counter[tuple[str, Row]]:
        """How often each row of each table is there now; what is gone before it came counts negative."""
        found: Counter[tuple[str, Row]] = Counter()
        for (_, table, row), count in dict.copy(self.folded).items():  # the follower goes on meanwhile
            if count:
                found[table, row] += count
        return found

    def _follow(self) -> None:
        consumer = Consumer(self._settings)
        try:
            consumer.assign([TopicPartition(topic, number, 0) for topic, number in self._partitions])
            while not self._ending.is_set():
                try:
                    messages = consumer.consume(1_000, 0.05)
                except KafkaException as error:
                    self.again.append(str(error))
                    continue
                self._take([message for message in messages if message.error() is None])
                self.again += [str(message.error()) for message in messages if message.error() is not None]
        finally:
            consumer.close()

    def _take(self, messages: list[Message]) -> None:
        records: list[Record] = []
        for message in messages:
            table, partition = self._tables[message.topic()], f"{message.topic()}/{message.partition()}"
            for place, (weight, row) in enumerate(_changes(message)):
                if weight == 0:
                    # Every partition has a TRUNCATE of its own, and they are not read in step.
                    self.folded = Counter({key: count for key, count in self.folded.items() if key[0] != partition})
                    continue
                offset: Offset = (message.offset(), place)
                records.append(Record(value_of(table, weight, row), partition, offset))
                self.folded[partition, table, (row["id"], row["token"], row["pad"])] += weight
        if records:
            self.polls.append(Poll(reader=self.name, records=tuple(records)))


def _changes(message: Message) -> Iterator[tuple[int, dict[str, object]]]:
    """Weight and row of each image in a message; weight 0 for a TRUNCATE."""
    content = message.value()
    if content is None:
        return  # a tombstone
    if content[:1] == b"{":
        envelope = json.loads(content)
        if envelope["op"] == "t":
            yield 0, {}
        for side, weight in (("before", -1), ("after", 1)):
            if envelope[side] is not None:
                yield weight, envelope[side]
        return
    for row in decode(content).rows.to_pylist():
        yield Op(row[OP]).weight, row


class CutFollower(Follower):
    """Reads what lies between one cut and the next, by raypipe's own log object, made anew after errors."""

    def __init__(self, url: str, pipeline: str, tables: Sequence[str]) -> None:
        super().__init__("cuts")
        self._url = url
        self._pipeline = pipeline
        self._tables = {topic_of(pipeline, table): table for table in tables}
        self._held = None

    def _follow(self) -> None:
        while not self._ending.is_set():
            log = None
            try:
                log = open_existing_log(self._url, pipeline=self._pipeline)
                while not self._ending.is_set():
                    last = log.known_cut()
                    if last is None or (self._held is not None and last.number == self._held.number):
                        self._ending.wait(AGAIN_S)
                        continue
                    for cut in log.cuts(self._held.number if self._held is not None else 0):
                        parts = log.slices(self._held, cut, list(self._tables), 1 << 20)
                        batches = [batch.batch for part in parts for batch in log.read(part)]
                        self._take(batches)
                        self._held = cut
            except RaypipeError as error:
                if error.directive is Directive.STOP:
                    raise
                self.again.append(str(error))
                self._ending.wait(AGAIN_S)
            finally:
                if log is not None:
                    with suppress(RaypipeError):
                        log.close()

    def _take(self, batches: list[ChangeBatch]) -> None:
        records = []
        for batch in batches:
            for row in batch.rows.to_pylist():
                weight = Op(row[OP]).weight
                if weight:
                    records.append(Record(value_of(batch.schema.table.table, weight, row)))
        if records:
            self.polls.append(Poll(reader=self.name, records=tuple(records), whole=True))


class _Silent:
    """What librdkafka says of connections that break on purpose."""

    def log(self, *_: object) -> None:
        pass


_silent = _Silent()
