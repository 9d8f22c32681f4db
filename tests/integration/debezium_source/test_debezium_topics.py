"""What happens to topics, and what the source makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from debezium_writer import ANSWER_S, Connector, envelope_fields
from servers import missing_skips

from cluster.services.home import Home
from cluster.services.kafka import KafkaCluster
from cluster.services.servers import private_kafka
from raypipe.errors import RaypipeError, SchemaMismatch, SourceGap
from raypipe.model import IMAGE, OP, Image, Op
from raypipe.sources import open_source
from raypipe.sources.debezium import DebeziumSource, gather
from raypipe.sources.quarantine import QUARANTINE

COLUMNS = [{"field": "id", "type": "int64", "optional": False}, {"field": "owner", "type": "string", "optional": True}]


class Lab(Connector):
    """A topic `people`, written message by message."""

    def __init__(self, bootstrap: str, partitions: int = 1) -> None:
        super().__init__(bootstrap, partitions=partitions)
        self.topic = ""

    def begin(self, config: dict[str, str] | None = None) -> Lab:
        self.topic = self.make_topic("people", config)
        return self

    def tell(self, *messages: tuple[Any, Any], columns: Sequence[dict[str, Any]] = COLUMNS) -> None:
        """Messages of (key, (op, before, after)) or (key, None)."""
        key_schema = {"type": "struct", "fields": COLUMNS[:1], "optional": False}
        schema = {"type": "struct", "fields": envelope_fields(columns), "optional": False}
        self.send(
            self.topic,
            [
                (
                    None if key is None else {"schema": key_schema, "payload": {"id": key}},
                    None
                    if told is None
                    else {
                        "schema": schema,
                        "payload": {"op": told[0], "before": told[1], "after": told[2], "ts_ms": 1_000},
                    },
                )
                for key, told in messages
            ],
        )

    def source(self, options: str = "") -> DebeziumSource:
        source = open_source("shop", f"kafka://{self.bootstrap}?prefix={self.prefix}{options}", ["people"])
        assert isinstance(source, DebeziumSource)
        return source


@pytest.fixture
def lab(kafka: KafkaCluster) -> Iterator[Lab]:
    lab = Lab(kafka.bootstrap)
    yield lab
    lab.close()


def person(number: int, owner: str | None = "ann", **more: object) -> dict[str, object]:
    return {"id": number, "owner": owner, **more}


def read(source: DebeziumSource) -> tuple[list[tuple[Any, ...]], str | None]:
    """(op, image, columns…) of every change that is there, and the position behind them."""
    changes: list[tuple[Any, ...]] = []
    position = None
    while (piece := source.poll(1 << 20)) is not None:
        position = piece.position
        for batch in piece.batches:
            changes += [
                (Op(row[OP]), Image(row[IMAGE]), *(row[name] for name in batch.schema.names))
                for row in batch.rows.to_pylist()
            ]
    return changes, position


def test_without_whole_before_images_a_row_that_goes_is_told_by_its_key(lab: Lab) -> None:
    lab.begin().tell((1, ("r", None, person(1))))
    source = lab.source()
    assert source.tables()[0].key_only
    source.open(None)
    read(source)
    # As PostgreSQL's default replica identity has it.
    lab.tell((1, ("u", None, person(1, "bob"))), (1, ("d", {"id": 1, "owner": None}, None)), (1, None))
    assert read(source)[0] == [
        (Op.UPDATE_BEFORE, Image.KEY, 1, None),
        (Op.UPDATE_AFTER, Image.FULL, 1, "bob"),
        (Op.DELETE, Image.KEY, 1, None),
    ]
    source.close()


def test_a_tombstone_that_compaction_left_alone_deletes_and_one_behind_its_delete_does_not(lab: Lab) -> None:
    lab.begin().tell((1, ("c", None, person(1))), (2, ("c", None, person(2))))
    source = lab.source()
    source.open(None)
    _, position = read(source)
    lab.tell((1, None))
    changes, position = read(source)
    assert changes == [(Op.DELETE, Image.KEY, 1, None)]
    lab.tell((2, ("d", None, None)))
    changes, position = read(source)
    assert changes == [(Op.DELETE, Image.KEY, 2, None)]
    source.close()
    lab.tell((2, None))  # its delete lies in an earlier piece, of an earlier run
    source.open(position)
    assert read(source)[0] == []
    source.close()


def test_a_new_column_empties_the_table_and_loads_it_again(lab: Lab) -> None:
    lab.begin().tell((1, ("c", None, person(1))))
    source = lab.source()
    source.open(None)
    read(source)
    wider = [*COLUMNS, {"field": "age", "type": "int32", "optional": True}]
    lab.tell((2, ("c", None, person(2, age=7))), columns=wider)
    changes, position = read(source)
    assert changes == [
        (Op.TRUNCATE, Image.FULL, None, None, None),
        (Op.READ, Image.FULL, 1, "ann", None),
        (Op.READ, Image.FULL, 2, "ann", 7),
    ]
    source.close()
    source.open(position)
    lab.tell((3, ("c", None, person(3, age=8))), columns=wider)
    piece = source.poll(1 << 20)
    assert piece is not None
    assert [batch.schema.version for batch in piece.batches] == [2]
    source.close()


def test_a_topic_made_anew_is_a_gap(lab: Lab) -> None:
    lab.begin().tell((1, ("c", None, person(1))))
    source = lab.source()
    source.open(None)
    _, position = read(source)
    source.close()
    lab.delete_topic(lab.topic)
    lab.begin().tell((1, ("c", None, person(1))), (2, ("c", None, person(2))))
    with pytest.raises(SourceGap, match="made anew"):
        source.open(position)


def test_messages_deleted_beyond_the_position_are_a_gap_and_those_before_are_not(lab: Lab) -> None:
    lab.begin().tell((1, ("c", None, person(1))))
    source = lab.source()
    source.open(None)
    _, position = read(source)
    source.close()
    lab.tell((2, ("c", None, person(2))), (3, ("c", None, person(3))))
    admin = AdminClient({"bootstrap.servers": lab.bootstrap})
    for keep, refused in ((1, False), (2, True)):
        for future in admin.delete_records([TopicPartition(lab.topic, 0, keep)]).values():
            future.result(ANSWER_S)
        if refused:
            with pytest.raises(SourceGap, match="deleted"):
                source.open(position)
        else:
            source.open(position)
            source.close()


def test_added_partitions_are_a_gap(lab: Lab) -> None:
    lab.begin().tell((1, ("c", None, person(1))))
    source = lab.source()
    source.open(None)
    _, position = read(source)
    source.close()
    admin = AdminClient({"bootstrap.servers": lab.bootstrap})
    for future in admin.create_partitions([NewPartitions(lab.topic, 2)]).values():
        future.result(ANSWER_S)
    with pytest.raises(SourceGap, match="partitions were added"):
        source.open(position)


def test_a_topic_without_a_message_and_one_that_is_unwrapped_are_refused(lab: Lab) -> None:
    lab.begin()
    with pytest.raises(SchemaMismatch, match="no message yet"):
        lab.source().tables()
    lab.send(lab.topic, [({"id": 1}, {"id": 1, "owner": "ann"})])
    with pytest.raises(SchemaMismatch, match="ExtractNewRecordState"):
        lab.source().tables()


def test_a_url_without_a_prefix_and_an_option_that_is_none_are_refused() -> None:
    for url, sentence in (("kafka://h:1", "how its topics begin"), ("kafka://h:1?prefix=p&befor=full", "'befor'")):
        with pytest.raises(RaypipeError, match=sentence):
            open_source("shop", url, ["people"])


def test_bare_messages_have_the_types_of_their_values_and_a_key_that_does_not_fit_stops(lab: Lab) -> None:
    lab.begin()
    rows = [
        {"id": number, "price": number / 2, "ok": True, "name": "x", "tags": [1], "never": None, "mixed": mixed}
        for number, mixed in ((1, 1), (2, "two"))
    ]
    lab.send(lab.topic, [({"id": row["id"]}, {"before": None, "after": row, "op": "r", "ts_ms": 1}) for row in rows])
    source = lab.source()
    types = {column.name: str(column.type) for column in source.tables()[0].columns}
    assert types == {
        "id": "int64",
        "price": "double",
        "ok": "bool",
        "name": "string",
        "tags": "string",
        "never": "string",
        "mixed": "string",
    }
    source.open(None)
    changes, _ = read(source)
    assert changes[1:] == [
        (Op.READ, Image.FULL, 1, 0.5, True, "x", "[1]", None, "1"),
        (Op.READ, Image.FULL, 2, 1.0, True, "x", "[1]", None, '"two"'),
    ]
    lab.send(lab.topic, [({"id": 3}, {"before": None, "after": {**rows[0], "id": 3.5}, "op": "c", "ts_ms": 1})])
    with pytest.raises(SchemaMismatch, match="Column id of the key"):
        read(source)
    source.close()


def test_a_value_that_does_not_fit_later_waits_in_quarantine_until_it_does(lab: Lab) -> None:
    lab.begin()

    def tell(number: int, price: object, op: str = "c") -> None:
        lab.send(lab.topic, [({"id": number}, {"after": {"id": number, "price": price}, "op": op, "ts_ms": 1})])

    def poll() -> tuple[list[tuple[Any, ...]], int]:
        piece = source.poll(1 << 20)
        assert piece is not None
        told = [
            (
                batch.schema.table.table,
                Op(row[OP]).name,
                (row["row_key"], row["column_name"]) if "row_key" in row else row["id"],
            )
            for batch in piece.batches
            for row in batch.rows.to_pylist()
        ]
        return told, piece.parked

    tell(1, 5)
    source = lab.source()
    source.open(None)
    poll()
    tell(2, 1.5)
    assert poll() == ([(QUARANTINE, "INSERT", ('["2"]', "price"))], 1)
    tell(1, 2**70, "u")
    assert poll()[0] == [
        ("people", "UPDATE_BEFORE", 1),
        *poll_keys("DELETE", 1),
        (QUARANTINE, "INSERT", ('["1"]', "price")),
    ]
    tell(2, 7, "u")
    told, _ = poll()
    assert ("people", "UPDATE_AFTER", 2) in told
    assert (QUARANTINE, "DELETE", ('["2"]', None)) in told
    source.close()


def poll_keys(op: str, number: int) -> list[tuple[Any, ...]]:
    return [(QUARANTINE, op, (f'["{number}"]', None))]


@pytest.mark.parametrize("way", ["kafka+ssl", "kafka+sasl", "kafka+sasl_ssl"])
def test_topics_are_read_over_tls_and_with_a_password(lab: Lab, kafka: KafkaCluster, way: str) -> None:
    lab.begin().tell((1, ("c", None, person(1))))
    servers = {
        "kafka+ssl": kafka.bootstrap_tls,
        "kafka+sasl": kafka.bootstrap_sasl,
        "kafka+sasl_ssl": kafka.bootstrap_sasl_tls,
    }

    def source(password: str) -> DebeziumSource:
        user = f"{kafka.user}:{password}@" if "sasl" in way else ""
        ca = f"&ca={kafka.certificates.authority}" if "ssl" in way.replace("sasl", "") else ""
        made = open_source("shop", f"{way}://{user}{servers[way]}?prefix={lab.prefix}{ca}", ["people"])
        assert isinstance(made, DebeziumSource)
        return made

    reading = source(kafka.password)
    reading.open(None)
    assert [change[2:] for change in read(reading)[0]] == [(None, None), (1, "ann")]
    reading.close()


def test_a_broker_that_restarts_is_waited_for(services_home: Home) -> None:
    with missing_skips(), private_kafka(services_home) as kafka:
        lab = Lab(kafka.bootstrap).begin()
        lab.tell((1, ("c", None, person(1))))
        source = lab.source()
        source.open(None)
        read(source)
        kafka.brokers[0].kill()
        kafka.brokers[0].start()
        lab.tell((2, ("c", None, person(2))))
        assert [change[2:] for change in read(source)[0]] == [(2, "ann")]
        source.close()


def test_a_new_column_in_bare_messages_is_found(lab: Lab) -> None:
    lab.begin()
    for row in ({"id": 1}, {"id": 2, "age": 7}):
        lab.send(lab.topic, [({"id": row["id"]}, {"after": row, "op": "c", "ts_ms": 1})])
        if "age" not in row:
            source = lab.source()
            source.open(None)
            read(source)
    assert [change[2:] for change in read(source)[0]] == [(None, None), (1, None), (2, 7)]
    source.close()


def test_several_partitions_come_to_what_a_view_says_and_take_no_truncate(kafka: KafkaCluster) -> None:
    lab = Lab(kafka.bootstrap, partitions=3)
    try:
        lab.begin()
        lab.tell(*((number, ("c", None, person(number))) for number in range(60)))
        lab.tell(*((number, ("u", None, person(number, "bob"))) for number in range(0, 60, 2)))
        lab.tell(*((number, ("d", {"id": number}, None)) for number in range(0, 60, 3)))
        source = lab.source()
        source.open(None)
        with lab.source().view() as view:
            lab.tell(*((number, ("d", {"id": number}, None)) for number in range(60)))
            held: dict[int, str | None] = {}
            while (piece := source.poll(2_000, upto=view.position)) is not None:
                for batch in piece.batches:
                    for row in batch.rows.to_pylist():
                        if Op(row[OP]).weight > 0:
                            held[row["id"]] = row["owner"]
                        else:
                            held.pop(row["id"], None)
            found = [row for batch in view.rows("shop.people") for row in batch.to_pylist()]
        assert {row["id"]: row["owner"] for row in found} == held
        assert held == {number: "ann" if number % 2 else "bob" for number in range(60) if number % 3}
        read(source)
        lab.tell((None, ("t", None, None)))
        with pytest.raises(SchemaMismatch, match="TRUNCATE and several partitions"):
            read(source)
        source.close()
    finally:
        lab.close()


def test_a_load_ends_behind_the_commits_that_no_message_shows(lab: Lab) -> None:
    lab.begin()
    producer = Producer({"bootstrap.servers": lab.bootstrap, "transactional.id": lab.prefix})
    producer.init_transactions(ANSWER_S)
    for number in range(3):
        producer.begin_transaction()
        producer.produce(lab.topic, json.dumps({"after": {"id": number}, "op": "r"}), json.dumps({"id": number}))
        (producer.commit_transaction if number < 2 else producer.abort_transaction)(ANSWER_S)
    source = lab.source()
    source.open(None)
    loading, rows = ("shop.people",), 0
    while (piece := source.poll(1)) is not None:
        loading = piece.loading
        rows += sum(batch.num_rows for batch in piece.batches)
    assert loading == ()
    assert rows == 3  # a TRUNCATE, and what was committed
    source.close()


def test_a_transaction_too_large_to_wait_for_is_told_in_parts_with_no_cut_between_them(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_WAITING_BYTES", 4_000)
    database = Connector(kafka.bootstrap, transactions=True)
    end = database._end
    try:
        database.write("CREATE TABLE a (id INTEGER PRIMARY KEY, n INTEGER)", "CREATE TABLE b (id INTEGER PRIMARY KEY)")
        source = open_source("shop", database.url, ["a", "b"])
        source.open(None)
        while source.poll(1 << 20) is not None:
            pass
        monkeypatch.setattr(database, "_end", lambda: None)
        for first in range(0, 2_000, 500):  # one transaction, of which Debezium tells more and more
            database.write("INSERT INTO a VALUES " + ", ".join(f"({n}, 1)" for n in range(first, first + 500)))
        parts = []
        while (piece := source.poll(1 << 20)) is not None:
            parts.append(piece)
        assert parts
        assert not any(piece.boundary for piece in parts)
        source.close()
        source.open(parts[-1].position)
        database.write("INSERT INTO b VALUES (1)")
        end()
        while not parts[-1].boundary:
            piece = source.poll(1 << 20)
            assert piece is not None
            parts.append(piece)
        rows = [batch.num_rows for piece in parts for batch in piece.batches]
        assert sum(rows) == 2_001
        assert source.poll(1 << 20) is None
        source.close()
    finally:
        database.close()


def test_transactions_that_end_again_and_changes_that_come_again_are_told_once(kafka: KafkaCluster) -> None:
    database = Connector(kafka.bootstrap, transactions=True)
    sent: list[tuple[str, list[tuple[Any, Any]]]] = []
    try:
        database.write("CREATE TABLE a (body TEXT)", "CREATE TABLE b (body TEXT)")
        source = open_source("shop", database.url, ["a", "b"])
        source.open(None)
        while source.poll(1 << 20) is not None:
            pass
        send = database.send
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "send", lambda topic, messages: sent.append((topic, list(messages))))
            for number in range(4):
                database.write(f"INSERT INTO a VALUES ('{number}'), ('{number}')", f"INSERT INTO b VALUES ('{number}')")
        for topic, messages in [*sent, *sent[3:]]:  # the connector goes back behind the first transaction
            send(topic, messages)
        told: list[tuple[str, str]] = []
        while (piece := source.poll(1 << 20)) is not None:
            for batch in piece.batches:
                told += [(batch.schema.table.table, row["body"]) for row in batch.rows.to_pylist()]
            assert piece.boundary
        assert sorted(told) == sorted(
            [("a", str(n)) for n in range(4) for _ in range(2)] + [("b", str(n)) for n in range(4)]
        )
        source.close()
    finally:
        database.close()


def test_a_transaction_topic_is_refused_when_the_changes_are_none_of_it(kafka: KafkaCluster) -> None:
    database = Connector(kafka.bootstrap, transactions=True)
    try:
        database.write("CREATE TABLE a (id INTEGER PRIMARY KEY)", "INSERT INTO a VALUES (1)")
        source = open_source("shop", database.url, ["a"])
        source.open(None)
        while source.poll(1 << 20) is not None:
            pass
        told = {"connector": "postgresql", "lsn": 10_000, "snapshot": "false", "sequence": '["9999","10000"]'}
        database.send(
            f"{database.prefix}.a", [({"id": 2}, {"after": {"id": 2}, "op": "c", "source": told, "transaction": None})]
        )
        with pytest.raises(SchemaMismatch, match="which transaction they are of"):
            source.poll(1 << 20)
        source.close()
        database.send(f"{database.server}.transaction", [(None, {"status": "END", "id": "binlog.1:x"})])
        with pytest.raises(SchemaMismatch, match="for PostgreSQL"):
            open_source("shop", database.url, ["a"]).open(None)
    finally:
        database.close()
