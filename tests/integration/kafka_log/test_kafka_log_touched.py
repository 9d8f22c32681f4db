"""What others do to a pipeline's topics is found out, and the message says what to do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from kafka_lab import changes, ids, new_pipeline, put, stored, topic, wait_until

from cluster.services.kafka import KafkaCluster
from raypipe.errors import Corrupt, Fenced, Kind, LimitExceeded, RaypipeError, SchemaMismatch, SourceGap, Unavailable
from raypipe.log import log_exists, open_existing_log
from raypipe.log.kafka import KafkaLog

Opened = Callable[[], KafkaLog]


@pytest.fixture
def pipeline() -> str:
    return new_pipeline()


@pytest.fixture
def url(kafka: KafkaCluster) -> str:
    return f"kafka://{kafka.bootstrap}"


@pytest.fixture
def opened(url: str, pipeline: str) -> Iterator[Opened]:
    made: list[KafkaLog] = []

    def one_more() -> KafkaLog:
        made.append(KafkaLog.create(url, pipeline))
        return made[-1]

    yield one_more
    for log in made:
        log.close()


@pytest.fixture
def admin(kafka: KafkaCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def delete_topic(admin: AdminClient, name: str) -> None:
    for future in admin.delete_topics([name]).values():
        future.result()
    wait_until(lambda: name not in admin.list_topics(timeout=60).topics, "the topic's end")


def test_records_that_others_deleted_are_a_gap(opened: Opened, pipeline: str, admin: AdminClient) -> None:
    log = opened()
    claim = log.claim(pipeline)
    first = put(log, claim, "1", 1)
    put(log, claim, "2", 2)
    end = first.offsets[topic(pipeline)]
    for future in admin.delete_records([TopicPartition(topic(pipeline), 0, end)]).values():
        future.result()
    with pytest.raises(SourceGap, match=r"retention\.ms=-1"):
        stored(opened())
    assert ids(stored(opened(), after=first)) == [2]


def test_a_read_that_met_a_gap_spoils_none_after_it(url: str, pipeline: str) -> None:
    # Several partitions have a gap: the first that is heard of ends the read, and the client holds on to the others.
    log = KafkaLog.create(f"{url}?partitions=3", pipeline)
    try:
        claim = log.claim(pipeline)
        cuts = [put(log, claim, str(n), *range(n * 100, n * 100 + 100)) for n in range(3)]
        (gone,) = log.slices(cuts[0], cuts[2], [topic(pipeline)], 1 << 20)
        assert log.retain(cuts[1]) > 0
        for _ in range(20):
            with pytest.raises(SourceGap):
                list(log.read(gone))
            (kept,) = log.slices(cuts[1], cuts[2], [topic(pipeline)], 1 << 20)
            assert sorted(ids(list(log.read(kept)))) == list(range(200, 300))
    finally:
        log.close()


def test_cuts_that_others_deleted_are_a_gap(opened: Opened, pipeline: str, admin: AdminClient) -> None:
    log = opened()
    put(log, log.claim(pipeline), "1", 1)
    for future in admin.delete_records([TopicPartition(f"{pipeline}.raypipe.cuts", 0, 1)]).values():
        future.result()
    with pytest.raises(SourceGap, match="cuts"):
        opened().last_cut()


def test_a_topic_made_anew_is_found_out_before_anything_is_written_to_it(
    opened: Opened, pipeline: str, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened()
    claim = log.claim(pipeline)
    cut = put(log, claim, "1", 1)
    delete_topic(admin, topic(pipeline))
    other = opened()
    with pytest.raises(SourceGap, match="is gone"):
        other.begin("shop", other.renew(claim))
    for future in admin.create_topics([NewTopic(topic(pipeline), 1, 1)]).values():
        future.result()
    other = opened()
    with pytest.raises(SourceGap, match="made anew"):
        other.begin("shop", other.renew(claim))
    # Enough for the broker to say where the topic ends; a broker that says nothing would be another error.
    monkeypatch.setattr("raypipe.log.kafka.reading.ANSWER_S", 4.0)
    with pytest.raises(SourceGap, match="made anew"):
        stored(other, upto=cut)


def test_a_topic_made_anew_under_a_writer_at_work_ends_its_transaction(
    opened: Opened, pipeline: str, admin: AdminClient
) -> None:
    log = opened()
    claim = log.claim(pipeline)
    for n in range(5):
        put(log, claim, str(n), n)
    delete_topic(admin, topic(pipeline))
    for future in admin.create_topics([NewTopic(topic(pipeline), 1, 1)]).values():
        future.result()
    with pytest.raises((SourceGap, Unavailable)):
        put(log, claim, "9", 9)
    assert opened().position("shop") == "4"


def test_partitions_that_were_added_are_told_and_left_alone(
    opened: Opened, pipeline: str, admin: AdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    log = opened()
    claim = log.claim(pipeline)
    put(log, claim, "1", 1)
    for future in admin.create_partitions([NewPartitions(topic(pipeline), 4)]).values():
        future.result()
    wait_until(lambda: len(admin.list_topics(timeout=60).topics[topic(pipeline)].partitions) == 4, "the partitions")
    other = opened()
    with caplog.at_level(logging.WARNING, "raypipe"):
        cut = put(other, other.renew(claim), "2", 2, 3, 4, 5)
    assert "partitions were added" in caplog.text
    assert set(cut.offsets) == {topic(pipeline)}
    assert ids(stored(opened())) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("headers", [None, [("raypipe", b"?")]])
def test_a_message_of_somebody_else_among_ours_is_refused(
    opened: Opened, pipeline: str, kafka: KafkaCluster, headers: list[tuple[str, bytes]] | None
) -> None:
    log = opened()
    claim = log.claim(pipeline)
    put(log, claim, "1", 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic(pipeline), b"hello", partition=0, headers=headers)
    assert producer.flush(10) == 0
    with pytest.raises(Unavailable, match="does not go on where"):
        put(log, claim, "2", 2)
    assert log.position("shop") == "1"
    put(log, claim, "2", 2)
    with pytest.raises(Corrupt, match="raypipe did not write"):
        stored(opened())


def test_a_record_of_somebody_else_among_the_cuts_is_refused(
    opened: Opened, pipeline: str, kafka: KafkaCluster
) -> None:
    log = opened()
    put(log, log.claim(pipeline), "1", 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(f"{pipeline}.raypipe.cuts", b"{}", partition=0)
    assert producer.flush(10) == 0
    with pytest.raises(Corrupt, match="was not written by this raypipe"):
        opened().last_cut()


def test_a_topic_of_others_under_a_tables_name_is_not_written_to(
    opened: Opened, pipeline: str, admin: AdminClient, kafka: KafkaCluster
) -> None:
    for future in admin.create_topics([NewTopic(topic(pipeline), 1, 1)]).values():
        future.result()
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic(pipeline), b"theirs", partition=0)
    assert producer.flush(10) == 0
    log = opened()
    with pytest.raises(RaypipeError, match="did not write") as caught:
        put(log, log.claim(pipeline), "1", 1)
    assert caught.value.kind is Kind.PIPELINE_FILE


def test_an_empty_topic_that_a_dead_writer_left_is_used(opened: Opened, pipeline: str) -> None:
    log = opened()
    claim = log.claim(pipeline)
    transaction = log.begin("shop", claim)
    transaction.append(topic(pipeline), changes(1))
    transaction.abort()
    other = opened()
    put(other, other.renew(claim), "1", 2)
    assert ids(stored(other)) == [2]


def test_names_that_kafka_does_not_take_are_kept_apart(opened: Opened, pipeline: str) -> None:
    log = opened()
    transaction = log.begin("shop", log.claim(pipeline))
    tables = ["naïve orders", "naive orders", "naïve_orders", "x" * 240]
    for number, table in enumerate(tables):
        transaction.append(topic(pipeline, table), changes(number))
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    assert set(cut.offsets) == {topic(pipeline, table) for table in tables}
    for number, table in enumerate(tables):
        (part,) = opened().slices(None, cut, [topic(pipeline, table)], 1 << 20)
        assert ids(list(log.read(part))) == [number]
    transaction = log.begin("shop", log.claim(pipeline))
    with pytest.raises(SchemaMismatch, match="slash"):
        transaction.append(topic(pipeline, "a/1"), changes(1))


def test_there_is_no_log_before_a_run_makes_one(url: str, pipeline: str) -> None:
    assert not log_exists(url, pipeline=pipeline)
    with pytest.raises(Unavailable, match="raypipe run makes it"):
        open_existing_log(url, pipeline=pipeline)
    KafkaLog.create(url, pipeline).close()
    assert log_exists(url, pipeline=pipeline)
    open_existing_log(url, pipeline=pipeline).close()


def test_a_log_is_one_pipelines(opened: Opened) -> None:
    with pytest.raises(RaypipeError, match="not for 'other'"):
        opened().claim("other")


def test_what_is_forgotten_leaves_kafka_and_the_lag_shows_as_a_consumer_group(
    opened: Opened, pipeline: str, admin: AdminClient, kafka: KafkaCluster
) -> None:
    from confluent_kafka import Consumer, ConsumerGroupTopicPartitions

    log = opened()
    claim = log.claim(pipeline)
    cuts = [put(log, claim, str(n), n) for n in range(4)]
    assert log.retain(cuts[2]) > 0
    end = cuts[2].offsets[topic(pipeline)]
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "lookup"})
    assert consumer.get_watermark_offsets(TopicPartition(topic(pipeline), 0))[0] == end
    assert consumer.get_watermark_offsets(TopicPartition(f"{pipeline}.raypipe.cuts", 0))[0] == cuts[2].number - 1
    consumer.close()

    def published() -> bool:
        (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(pipeline)]).values()
        return [(place.topic, place.offset) for place in future.result().topic_partitions] == [(topic(pipeline), end)]

    wait_until(published, "the group's offsets")
    fresh = opened()
    assert fresh.cuts() == [cuts[2], cuts[3]]
    assert fresh.size() == log.size() == cuts[3].bytes - cuts[2].bytes
    assert ids(stored(fresh)) == [3]
    assert fresh.retain(cuts[1]) == 0
    put(fresh, fresh.renew(claim), "9", 9)
    assert ids(stored(opened(), after=cuts[2])) == [3, 9]


def test_a_writer_that_hears_of_its_successors_commits_first_is_fenced_and_blames_nobody(
    opened: Opened, pipeline: str
) -> None:
    log = opened()
    claim = log.claim(pipeline)
    put(log, claim, "1", 1)
    transaction = log.begin("shop", claim)
    transaction.append(topic(pipeline), changes(2))
    successor = opened()
    later = successor.claim(pipeline)
    for number in (3, 4, 5):
        put(successor, later, str(number), number)
    wait_until(lambda: log.last_cut() == successor.last_cut(), "the older one to hear of it")
    with pytest.raises(Fenced):
        transaction.commit("2", boundary=True)
    assert ids(stored(opened())) == [1, 3, 4, 5]


def test_a_long_history_of_claims_is_summed_up_and_still_counts_and_fences(
    opened: Opened, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypipe.log.kafka.fence._SUMMED_UP_AT", 6)
    log = opened()
    claim = log.claim(pipeline)
    put(log, claim, "1", 1)
    for run in range(2, 9):
        later = opened().claim(pipeline)
        assert (later.run, later.generation > claim.generation) == (run, True)
        with pytest.raises(Fenced):
            log.renew(claim)
        log, claim = opened(), later
        put(log, claim, str(run), run)
    assert log._query.bounds(f"{pipeline}.raypipe.claims")[0] > 6, "older claims are gone"
    assert ids(stored(opened())) == list(range(1, 9))


def test_a_value_larger_than_the_brokers_usual_bound_is_carried(opened: Opened, pipeline: str) -> None:
    log = opened()
    body = os.urandom(20 << 20)
    put(log, log.claim(pipeline), "1", 1, body=body)
    (batch,) = stored(opened())
    assert batch.batch.rows.column("body")[0].as_py() == body
    transaction = log.begin("shop", log.claim(pipeline))
    with pytest.raises(LimitExceeded, match="holds"):
        transaction.append(topic(pipeline), changes(2, body=os.urandom(65 << 20)))


def test_a_large_transaction_is_one_cut_in_many_slices(opened: Opened, pipeline: str) -> None:
    log = opened()
    transaction = log.begin("shop", log.claim(pipeline))
    for number in range(30):
        transaction.append(topic(pipeline), changes(number, body=os.urandom(1 << 20)))
    cut = transaction.commit("1", boundary=True)
    assert cut is not None
    parts = log.slices(None, cut, [topic(pipeline)], 8 << 20)
    assert 3 <= len(parts) <= 5
    assert [number for part in parts for number in ids(list(opened().read(part)))] == list(range(30))
    assert sum(part.bytes for part in parts) == cut.bytes == log.size()
