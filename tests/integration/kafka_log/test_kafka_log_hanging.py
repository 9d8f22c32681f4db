"""Transactions that a broker left open for ever: the next writer of the instance ends them, and everybody goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from kafka_lab import changes, ids, new_pipeline, put, stored, topic, wait_until
from raw_producer import leave_open
from servers import missing_skips

from cluster.services.home import Home
from cluster.services.kafka import KafkaCluster
from cluster.services.servers import private_kafka
from raypipe import faults
from raypipe.errors import Fenced, OutcomeUnknown, Unavailable
from raypipe.log.kafka import KafkaLog

pytestmark = pytest.mark.chaos

PARTITIONS = 3


@pytest.fixture(scope="module")
def broker(services_home: Home) -> Iterator[KafkaCluster]:
    settings = {"transaction.partition.verification.enable": "false"}
    with missing_skips(), private_kafka(services_home, settings=settings) as started:
        yield started


class Log:
    """A log with two commits, whose writer is alive, and somebody who follows it."""

    def __init__(self, broker: KafkaCluster) -> None:
        self.port = broker.brokers[0].ports.plain
        self.pipeline = new_pipeline()
        self.url = f"kafka://{broker.bootstrap}?partitions={PARTITIONS}"
        self.log, self.follower = (KafkaLog.create(self.url, self.pipeline) for _ in range(2))
        self.claim = self.log.claim(self.pipeline)
        put(self.log, self.claim, "1", *range(10))
        self.cut = put(self.log, self.claim, "2", *range(10, 20))
        assert sorted(ids(stored(self.follower))) == list(range(20))

    def places(self, which: str) -> list[tuple[str, int]]:
        tables = [(topic(self.pipeline), number) for number in range(PARTITIONS)]
        cuts = [(f"{self.pipeline}.raypipe.cuts", 0)]
        return {"cuts": cuts, "tables": tables, "all": cuts + tables}[which]

    def hang(self, which: str, instance: str = "shop") -> None:
        leave_open(self.port, f"{self.pipeline}.{instance}", self.places(which))

    def close(self) -> None:
        self.log.close()
        self.follower.close()


@pytest.fixture
def log(broker: KafkaCluster) -> Iterator[Log]:
    made = Log(broker)
    yield made
    made.close()


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    yield faults.arm
    faults.arm("")


@pytest.mark.parametrize("which", ["cuts", "tables", "all"])
def test_a_writer_that_starts_ends_what_hangs_and_followers_go_on(log: Log, which: str) -> None:
    log.hang(which)
    successor = KafkaLog.open(log.url, log.pipeline)
    try:
        cut = put(successor, successor.renew(log.claim), "3", *range(20, 30))
        wait_until(lambda: log.follower.known_cut() == cut, "the follower")
        assert sorted(ids(stored(log.follower, upto=cut))) == list(range(30)), "what was committed before is kept too"
        assert log.follower.position("shop") == "3"
    finally:
        successor.close()


def test_a_writer_whose_id_was_taken_starts_again_and_goes_on(log: Log) -> None:
    transaction = log.log.begin("shop", log.claim)
    transaction.append(topic(log.pipeline), changes(99))
    log.hang("all")
    with pytest.raises((OutcomeUnknown, Fenced, Unavailable)):  # which depends on whose messages came first
        transaction.commit("3", boundary=True)
    again = KafkaLog.open(log.url, log.pipeline)
    try:
        put(again, again.renew(log.claim), "3", *range(20, 30))
        assert sorted(ids(stored(log.follower))) == list(range(30))
    finally:
        again.close()


def test_a_transaction_that_another_live_writer_has_open_is_not_ended(log: Log, armed: Callable[[str], None]) -> None:
    other = KafkaLog.open(log.url, log.pipeline)
    successor = KafkaLog.open(log.url, log.pipeline)
    claim = successor.renew(log.claim)
    transaction = other.begin("other", claim)
    transaction.append(f"{log.pipeline}.other.main.t", changes(1))
    armed("log.commit.before=delay:4")  # longer than the patience of a writer that starts
    committing = threading.Thread(target=transaction.commit, args=("1",), kwargs={"boundary": True})
    committing.start()
    try:
        wait_until(lambda: log.log._topics.unsettled(log.places("cuts")), "the other's record")
        put(successor, claim, "3", *range(20, 30))
        committing.join()
        assert log.follower.position("other") == "1"
        assert log.follower.position("shop") == "3"
        assert sorted(ids(stored(log.follower))) == sorted([1, *range(30)])
    finally:
        committing.join()
        other.close()
        successor.close()
