"""The servers that tests share take connections in every way that is promised."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Mapping

import pg8000.native
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import CERTIFIED, SUPERUSER, PostgresServer


def connected(server: PostgresServer, user: str = SUPERUSER, **more: object) -> pg8000.native.Connection:
    return pg8000.native.Connection(user, host="127.0.0.1", port=server.port, database="postgres", **more)


@pytest.mark.parametrize("major", [15, 16, 18])
def test_each_postgres_can_be_read_from_by_logical_replication(request: pytest.FixtureRequest, major: int) -> None:
    server: PostgresServer = request.getfixturevalue(f"postgres{major}")
    connection = connected(server, password=server.password)
    try:
        shown = connection.run(
            "SELECT name, setting FROM pg_settings WHERE name IN ('server_version_num', 'wal_level', 'data_checksums', "
            "'max_replication_slots', 'max_wal_senders', 'max_prepared_transactions', 'track_commit_timestamp', "
            "'listen_addresses', 'password_encryption')"
        )
    finally:
        connection.close()
    settings = dict(shown)
    assert int(settings["server_version_num"]) // 10_000 == major
    assert settings["wal_level"] == "logical"
    assert settings["track_commit_timestamp"] == "on"
    assert settings["listen_addresses"] == "127.0.0.1"
    assert settings["password_encryption"] == "scram-sha-256"
    assert min(int(settings[f"max_{what}"]) for what in ("replication_slots", "wal_senders")) >= 16
    assert int(settings["max_prepared_transactions"]) > 0


def test_a_wrong_password_is_refused(postgres18: PostgresServer) -> None:
    psql = [*postgres18.command("psql"), "--command", "SELECT 1", "postgres"]
    told = subprocess.run(psql, env={**os.environ, "PGPASSWORD": "wrong"}, capture_output=True, text=True)
    assert told.returncode == 2
    assert "password authentication failed" in told.stderr


def test_postgres_15_speaks_tls_and_knows_its_client_by_certificate(postgres15: PostgresServer) -> None:
    assert postgres15.certificates
    trusting = ssl.create_default_context(cafile=str(postgres15.certificates.authority))
    connection = connected(postgres15, password=postgres15.password, ssl_context=trusting)
    try:
        assert connection.run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [[True]]
        connection.run(f"DROP ROLE IF EXISTS {CERTIFIED}")
        connection.run(f"CREATE ROLE {CERTIFIED} LOGIN")
        trusting.load_cert_chain(postgres15.certificates.client, postgres15.certificates.client_key)
        certified = connected(postgres15, CERTIFIED, ssl_context=trusting)
        try:
            assert certified.run("SELECT current_user") == [[CERTIFIED]]
        finally:
            certified.close()
        connection.run(f"DROP ROLE {CERTIFIED}")
    finally:
        connection.close()


def ways(kafka: KafkaCluster) -> Mapping[str, Mapping[str, str]]:
    tls = {"ssl.ca.location": str(kafka.certificates.authority)}
    scram = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": kafka.user, "sasl.password": kafka.password}
    return {
        "plain": {"bootstrap.servers": kafka.bootstrap},
        "tls": {"bootstrap.servers": kafka.bootstrap_tls, "security.protocol": "SSL", **tls},
        "sasl": {"bootstrap.servers": kafka.bootstrap_sasl, "security.protocol": "SASL_PLAINTEXT", **scram},
        "sasl-tls": {"bootstrap.servers": kafka.bootstrap_sasl_tls, "security.protocol": "SASL_SSL", **scram, **tls},
    }


@pytest.mark.parametrize("way", ["plain", "tls", "sasl", "sasl-tls"])
def test_kafka_commits_a_transaction_over_each_listener(kafka: KafkaCluster, seed: int, way: str) -> None:
    settings, name = ways(kafka)[way], f"services-test.{seed}.{way}"
    administrator = AdminClient(settings)
    for made in administrator.create_topics([NewTopic(name, 1, 1)]).values():
        made.result(30)
    producer = Producer({**settings, "transactional.id": name})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(name, b"committed")
    producer.commit_transaction(60)
    consumer = Consumer({**settings, "group.id": name, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(name, 0, 0)])
    try:
        assert [message.value() for message in consumer.consume(1, 60)] == [b"committed"]
    finally:
        consumer.close()
        for gone in administrator.delete_topics([name]).values():
            gone.result(30)


def test_kafka_refuses_a_wrong_password(kafka: KafkaCluster) -> None:
    said: list[str] = []
    settings = {**ways(kafka)["sasl"], "sasl.password": "wrong", "error_cb": lambda error: said.append(error.name())}
    consumer = Consumer({**settings, "group.id": "refused", "log_level": 0})
    try:
        for _ in range(100):
            consumer.poll(0.1)
            if "_AUTHENTICATION" in said:
                return
        pytest.fail(f"no word of a wrong password, but {said}")
    finally:
        consumer.close()
