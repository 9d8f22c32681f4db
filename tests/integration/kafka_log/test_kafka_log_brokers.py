"""Brokers that restart, die and lose leaderships, and a broker's patience that ends: nothing is lost or doubled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from kafka_lab import changes, ids, new_pipeline, put, stored, topic, wait_until
from servers import missing_skips

from cluster.services.home import Home
from cluster.services.kafka import KafkaCluster
from cluster.services.servers import private_kafka
from raypipe.errors import OutcomeUnknown, RaypipeError, Unavailable
from raypipe.log.kafka import KafkaLog

pytestmark = pytest.mark.chaos

WRITER = Path(__file__).with_name("kafka_writer.py")
TRANSACTIONS = 400
# A broker that was killed is let in again when its session has ended.
QUICK = {"broker.session.timeout.ms": "3000", "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"}


@pytest.fixture(scope="module")
def single(services_home: Home) -> Iterator[KafkaCluster]:
    with missing_skips(), private_kafka(services_home, settings=QUICK) as started:
        yield started


@pytest.fixture(scope="module")
def three(services_home: Home) -> Iterator[KafkaCluster]:
    with missing_skips(), private_kafka(services_home, brokers=3, settings=QUICK) as started:
        yield started


def url_of(kafka: KafkaCluster, options: str = "partitions=3") -> str:
    return f"kafka://{kafka.bootstrap}?{options}"


def writer(url: str, pipeline: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WRITER), url, pipeline, str(TRANSACTIONS)],
        env=os.environ | {"RAYPIPE_FAULTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_whole(url: str, pipeline: str) -> None:
    log = KafkaLog.open(url, pipeline)
    try:
        assert ids(stored(log)) == list(range(4 * TRANSACTIONS))
    finally:
        log.close()


def await_commits(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("durable"):
            count -= 1
        if count == 0:
            return
    raise AssertionError("the writer ended too early")


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("end", ["kill", "restart"])
def test_a_broker_that_goes_and_comes_back_under_a_writer_keeps_each_change_once(
    single: KafkaCluster, end: str
) -> None:
    pipeline, url = new_pipeline(), url_of(single)
    process = writer(url, pipeline)
    try:
        await_commits(process, 50)
        if end == "kill":
            single.brokers[0].kill()
            single.brokers[0].start()
        else:
            single.brokers[0].restart()
        finish(process)
        check_whole(url, pipeline)
    finally:
        process.kill()
        process.communicate()


def test_brokers_of_three_killed_one_after_the_other_coordinator_and_leaders_included(three: KafkaCluster) -> None:
    pipeline, url = new_pipeline(), url_of(three, "partitions=3&replication_factor=3")
    process = writer(url, pipeline)
    try:
        await_commits(process, 20)
        for broker in three.brokers:
            broker.kill()
            await_commits(process, 5)
            broker.start()
        finish(process)
        check_whole(url, pipeline)
    finally:
        process.kill()
        process.communicate()


def test_a_reader_waits_for_a_leader_that_moves(three: KafkaCluster) -> None:
    pipeline, url = new_pipeline(), url_of(three, "replication_factor=3")
    log = KafkaLog.create(url, pipeline)
    try:
        claim = log.claim(pipeline)
        cuts = [put(log, claim, str(n), n, body=os.urandom(300_000)) for n in range(40)]
        parts = log.slices(None, cuts[-1], [topic(pipeline)], 1 << 20)
        reading = (batch for part in parts for batch in log.read(part))
        found = [next(reading) for _ in range(3)]
        admin = AdminClient({"bootstrap.servers": three.bootstrap})
        leader = admin.list_topics(topic(pipeline), timeout=60).topics[topic(pipeline)].partitions[0].leader
        broker = next(one for one in three.brokers if one.node == leader)
        broker.kill()
        found += list(reading)
        assert ids(found) == list(range(40))
        broker.start()
    finally:
        log.close()


def test_a_transaction_that_the_broker_gave_up_is_not_committed_and_the_next_goes_on(single: KafkaCluster) -> None:
    pipeline, url = new_pipeline(), url_of(single, "transaction_timeout_ms=1000")
    log, watcher = KafkaLog.create(url, pipeline), KafkaLog.create(url, pipeline)
    try:
        claim = log.claim(pipeline)
        put(log, claim, "1", 1)
        transaction = log.begin("shop", claim)
        transaction.append(topic(pipeline), changes(2))
        # The broker ends what was begun a second ago; from then on a later record of the partition can be read again.
        admin = AdminClient({"bootstrap.servers": single.bootstrap})
        wait_until(lambda: given_up(admin, watcher, pipeline), "the broker's patience to end")
        with pytest.raises((OutcomeUnknown, Unavailable)):
            transaction.commit("2", boundary=True)
        assert watcher.position("shop") == "1"
        again = KafkaLog.open(url, pipeline)
        put(again, again.renew(claim), "3", 3)
        assert ids(stored(again)) == [1, 3]
        again.close()
    finally:
        log.close()
        watcher.close()


def given_up(admin: AdminClient, log: KafkaLog, pipeline: str) -> bool:
    """Whether no transaction is open in the table's topic: its readable end is its end."""
    from confluent_kafka import IsolationLevel, TopicPartition
    from confluent_kafka.admin import OffsetSpec

    place = TopicPartition(topic(pipeline), 0)
    ends = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        (future,) = admin.list_offsets({place: OffsetSpec.latest()}, isolation_level=level).values()
        ends.append(future.result().offset)
    return ends[0] == ends[1] > 2


def test_a_log_whose_broker_is_away_says_so_and_goes_on_when_it_is_back(
    single: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, url = new_pipeline(), url_of(single)
    log = KafkaLog.create(url, pipeline)
    try:
        claim = log.claim(pipeline)
        put(log, claim, "1", 1)
        single.brokers[0].kill()
        with monkeypatch.context() as impatient:
            for module in ("log", "query", "transaction", "follow"):
                impatient.setattr(f"raypipe.log.kafka.{module}.ANSWER_S", 3.0)
            with pytest.raises((Unavailable, OutcomeUnknown)):
                put(log, claim, "2", 2)
            with pytest.raises(Unavailable, match=r"does not answer|did not answer"):
                log.last_cut()
        single.brokers[0].start()

        def back() -> bool:
            try:
                return log.last_cut() is not None
            except RaypipeError:
                return False

        wait_until(back, "the log's return")
        put(log, log.renew(claim), "3", 3)
        assert ids(stored(log)) == [1, 3]
    finally:
        log.close()
