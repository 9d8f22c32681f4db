"""A real Debezium between a real PostgreSQL and a real Kafka: a database of one's own, and connectors that read it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pg8000.native
from confluent_kafka.admin import AdminClient

from cluster.services.connect import ConnectWorker
from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import SUPERUSER, PostgresServer

ANSWER_S = 60.0
LOOK_EVERY_S = 0.05
PLAIN_JSON = {
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter.schemas.enable": "false",
}


class DebeziumLab:
    """A database, and the connectors that read it.

    Attributes:
        worker: That the connectors run on.
        kafka: That they write to.
        database: Its name.
    """

    def __init__(self, worker: ConnectWorker, kafka: KafkaCluster, postgres: PostgresServer) -> None:
        self.worker = worker
        self.kafka = kafka
        self.database = f"dbz_{uuid.uuid4().hex[:10]}"
        self._postgres = postgres
        self._configs: dict[str, dict[str, str]] = {}
        with self._connected("postgres") as connection:
            connection.run(f"CREATE DATABASE {self.database}")

    def write(self, *statements: str) -> None:
        """Runs statements in one transaction."""
        with self._connected(self.database) as connection:
            connection.run("BEGIN")
            for statement in statements:
                connection.run(statement)
            connection.run("COMMIT")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self._connected(self.database) as connection:
            return [tuple(row) for row in connection.run(query)]

    def capture(self, name: str, tables: str, more: Mapping[str, str] | None = None) -> str:
        """Makes a connector that takes a snapshot and then streams; returns the prefix of its topics, schema included.

        Args:
            name: Of the connector, in this database.
            tables: As ``table.include.list`` has them.
            more: Of its settings.
        """
        server = f"{self.database}_{name}"
        config = {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "database.hostname": "127.0.0.1",
            "database.port": str(self._postgres.port),
            "database.user": SUPERUSER,
            "database.password": self._postgres.password,
            "database.dbname": self.database,
            "plugin.name": "pgoutput",
            "slot.name": server,
            "slot.drop.on.stop": "false",
            "publication.name": f"publication_{name}",
            "publication.autocreate.mode": "filtered",
            "topic.prefix": server,
            "table.include.list": tables,
            "poll.interval.ms": "10",
            "topic.creation.default.replication.factor": "1",
            "topic.creation.default.partitions": "1",
            **(more or {}),
        }
        self._configs[server] = config
        self.worker.add(server, config)
        return f"{server}.public"

    def again(self, name: str) -> None:
        """Makes a connector again after its worker was started anew."""
        server = f"{self.database}_{name}"
        self.await_(lambda: not self._slots(f"slot_name = '{server}' AND active"), "the slot is free")
        self.worker.add(server, self._configs[server])

    @staticmethod
    def await_(holds: Callable[[], bool], what: str) -> None:
        """Waits for a condition."""
        deadline = time.monotonic() + ANSWER_S
        while not holds():
            assert time.monotonic() < deadline, f"not in time: {what}"
            time.sleep(LOOK_EVERY_S)

    def topics(self) -> list[str]:
        """Names of the topics that its connectors made."""
        there = AdminClient({"bootstrap.servers": self.kafka.bootstrap}).list_topics(timeout=ANSWER_S).topics
        return [name for name in there if name.startswith(self.database)]

    def close(self) -> None:
        """Removes connectors, slots, database and topics."""
        for server in self._configs:
            if self.worker.pid is not None:
                self.worker.call("DELETE", f"/connectors/{server}")
        self.await_(lambda: not self._slots("active"), "connectors are gone")
        with self._connected("postgres") as connection:
            for (slot,) in connection.run(f"SELECT slot_name FROM pg_replication_slots WHERE {self._mine}"):
                connection.run(f"SELECT pg_drop_replication_slot('{slot}')")
            connection.run(f"DROP DATABASE {self.database} WITH (FORCE)")
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        topics = self.topics()
        for future in (admin.delete_topics(topics) if topics else {}).values():
            future.result(ANSWER_S)

    @property
    def _mine(self) -> str:
        return f"database = '{self.database}'"

    def _slots(self, condition: str) -> list[Any]:
        with self._connected("postgres") as connection:
            return list(
                connection.run(f"SELECT slot_name FROM pg_replication_slots WHERE {self._mine} AND {condition}")
            )

    @contextmanager
    def _connected(self, database: str) -> Iterator[pg8000.native.Connection]:
        connection = pg8000.native.Connection(
            SUPERUSER, host="127.0.0.1", port=self._postgres.port, database=database, password=self._postgres.password
        )
        try:
            yield connection
        finally:
            connection.close()
