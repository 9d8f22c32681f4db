"""What a Kafka URL may say, and one sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.codec import Compression
from raypipe.errors import Kind, RaypipeError
from raypipe.log.kafka.address import parse_address
from raypipe.log.kafka.names import kafka_topic, partition_key, topic_and_partition
from raypipe.model import TableName


def test_a_url_says_servers_and_how_topics_are_made() -> None:
    address = parse_address(
        "kafka://a:9092,b:9093?partitions=4&replication_factor=3&compression=zstd&debezium=shop.orders,s.main.x"
        "&transaction_timeout_ms=90000"
    )
    assert address.servers == "a:9092,b:9093"
    assert (address.partitions, address.replication_factor) == (4, 3)
    assert address.compression is Compression.ZSTD
    assert address.transaction_timeout_ms == 90_000
    assert address.encodes_as_json(TableName("shop", "public", "orders"))
    assert address.encodes_as_json(TableName("s", "main", "x"))
    assert not address.encodes_as_json(TableName("s", "other", "x"))


def test_without_options_the_broker_decides_on_copies_and_a_table_has_one_partition() -> None:
    address = parse_address("kafka://[::1]:9092")
    assert (address.partitions, address.replication_factor, address.compression) == (1, None, Compression.LZ4)
    assert dict(address.security) == {"security.protocol": "plaintext"}


def test_security_is_the_scheme_and_nothing_shows_the_password(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    address = parse_address(f"kafka+sasl_ssl://me:p%40ss%3Aw@h:1?mechanism=scram-sha-256&ca={ca}")
    assert address.security == {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": "p@ss:w",
        "ssl.ca.location": str(ca),
    }
    assert "p@ss" not in f"{address!r} {address}"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("kafka+http://h:1", "no way to connect"),
        ("kafka://", "names no broker"),
        ("kafka://host", "is host:port, and 'host' is not"),
        ("kafka://host:x", "is host:port"),
        ("kafka://host:99999", "is host:port"),
        ("kafka://h:1/topic", "has a path"),
        ("kafka://h:1?partitions", "name=value"),
        ("kafka://h:1?partitions=0", "whole number from 1 to 256"),
        ("kafka://h:1?partitions=2&partitions=3", "given twice"),
        ("kafka://h:1?partitons=2", "no option 'partitons'. It has: partitions"),
        ("kafka://h:1?compression=gzip", "Known: lz4, zstd, none"),
        ("kafka://h:1?debezium=orders", "source.table"),
        ("kafka://u:secret@h:1", "sends no password"),
        ("kafka+sasl://h:1", "needs a user and a password"),
        ("kafka+sasl://u:secret@h:1?mechanism=GSSAPI", "Known: SCRAM-SHA-256"),
        ("kafka+ssl://h:1?ca=/no/such/file", "does not exist"),
        ("kafka+sasl://u:secret@h:1?ca=/etc/hostname", "Only kafka+ssl://"),
        ("kafka://h:1?mechanism=PLAIN", "have a mechanism"),
    ],
)
def test_each_mistake_has_its_sentence_and_shows_no_secret(url: str, sentence: str) -> None:
    with pytest.raises(RaypipeError) as caught:
        parse_address(url)
    assert sentence in str(caught.value)
    assert caught.value.kind is Kind.PIPELINE_FILE
    assert "secret" not in str(caught.value)


def test_tables_chosen_for_an_encoding_must_be_the_pipelines() -> None:
    address = parse_address("kafka://h:1?debezium=shop.orders,shop.nothing")
    with pytest.raises(RaypipeError, match=r"shop\.nothing, which is no table here\. There are: shop\.orders"):
        address.require_tables([TableName("shop", "main", "orders")])
    address.require_tables([TableName("shop", "main", "orders"), TableName("shop", "main", "nothing")])


def test_names_of_partitions_are_read_back() -> None:
    for partition in (0, 1, 17):
        assert topic_and_partition(partition_key("p.shop.main.t", partition)) == ("p.shop.main.t", partition)
    assert partition_key("p.shop.main.t", 0) == "p.shop.main.t"


def test_a_topics_name_is_its_own_where_kafka_takes_it() -> None:
    assert kafka_topic("p.shop.main.order-items_2") == "p.shop.main.order-items_2"
    names = {kafka_topic(f"p.shop.main.{table}") for table in ("a b", "a_b", "a\tb", "ä", "x" * 300, "x" * 301)}
    assert len(names) == 6
    assert all(len(name) <= 249 for name in names)
