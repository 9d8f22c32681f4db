"""Writes envelopes of Debezium to Kafka: what a SQLite database did becomes messages, as a connector would make them.

The database is the truth: which rows an UPDATE or a DELETE met, and what they were before, is asked of it.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

ANSWER_S = 60
TYPES = {"INTEGER": "int64", "TEXT": "string"}


class Connector:
    """A SQLite database in memory, and the topics that tell what happens to it.

    Args:
        bootstrap: Of the Kafka.
        schemas: Messages carry their schemas.
        partitions: Of each topic.
        transactions: Messages say where they stand in the database's stream, as PostgreSQL's do, and a topic tells what
            a transaction is made of.
    """

    def __init__(
        self, bootstrap: str, *, schemas: bool = True, partitions: int = 1, transactions: bool = False
    ) -> None:
        self.server = f"t_{uuid.uuid4().hex[:12]}"
        self.prefix = f"{self.server}.main"
        self.bootstrap = bootstrap
        self.schemas = schemas
        self._partitions = partitions
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 0, "compression.type": "lz4"}
        )
        self._topics: list[str] = []
        self._lsn, self._behind, self._number = 100, 50, 1
        self._transaction: dict[str, int] | None = {} if transactions else None
        if transactions:
            self.make(f"{self.server}.transaction")

    @property
    def url(self) -> str:
        told = f"&transactions={self.server}.transaction" if self._transaction is not None else ""
        return f"kafka://{self.bootstrap}?prefix={self.prefix}&before=full{told}"

    # Topics

    def make_topic(self, table: str, config: Mapping[str, str] | None = None) -> str:
        return self.make(f"{self.prefix}.{table}", config)

    def make(self, topic: str, config: Mapping[str, str] | None = None) -> str:
        new = NewTopic(topic, num_partitions=self._partitions, config=dict(config or {}))
        for future in self._admin.create_topics([new]).values():
            future.result(ANSWER_S)
        self._topics.append(topic)
        deadline = time.monotonic() + ANSWER_S
        while topic not in self._admin.list_topics(timeout=ANSWER_S).topics:
            assert time.monotonic() < deadline
        return topic

    def delete_topic(self, topic: str) -> None:
        for future in self._admin.delete_topics([topic], operation_timeout=ANSWER_S).values():
            future.result(ANSWER_S)
        self._topics.remove(topic)
        deadline = time.monotonic() + ANSWER_S
        while topic in self._admin.list_topics(timeout=ANSWER_S).topics:
            assert time.monotonic() < deadline

    def send(self, topic: str, messages: Iterable[tuple[Any, Any]]) -> None:
        """Messages of (key, value), each JSON of the object given or None; returns when they are there."""
        failed: list[object] = []
        for key, value in messages:
            texts = [None if each is None else json.dumps(each, separators=(",", ":")) for each in (value, key)]
            self._producer.produce(topic, *texts, on_delivery=lambda error, _: failed.append(error) if error else None)
            self._producer.poll(0)
        assert self._producer.flush(ANSWER_S) == 0
        assert not failed

    def close(self) -> None:
        for topic in list(self._topics):
            self.delete_topic(topic)
        self._database.close()

    # The database

    def write(self, *statements: str) -> None:
        self._database.execute("BEGIN")
        told: dict[str, list[tuple[Any, Any]]] = {}
        for statement in statements:
            made = re.match(r"CREATE TABLE (\w+)", statement)
            if made:
                self._database.execute(statement)
                self.make_topic(made[1])
                told.setdefault(made[1], []).extend(self._beginning(made[1]))
                continue
            table = re.match(r"(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)", statement)
            assert table
            before = self._rows(table[1])
            self._database.execute(statement)
            told.setdefault(table[1], []).extend(self._changes(table[1], before, self._rows(table[1])))
        self._database.execute("COMMIT")
        for table_name, messages in told.items():
            self.send(f"{self.prefix}.{table_name}", messages)
        self._end()

    def _end(self) -> None:
        """Tells what the transaction was made of."""
        if self._transaction is None:
            return
        collections = [
            {"data_collection": f"main.{table}", "event_count": count} for table, count in self._transaction.items()
        ]
        self._lsn += 7
        told = {"id": f"{self._number}:{self._lsn}", "ts_ms": int(time.time() * 1000)}
        begun = {"status": "BEGIN", "event_count": None, "data_collections": None}
        ended = {"status": "END", "event_count": sum(self._transaction.values()), "data_collections": collections}
        self.send(f"{self.server}.transaction", [({"id": told["id"]}, told | each) for each in (begun, ended)])
        self._behind, self._number, self._transaction = self._lsn, self._number + 1, {}

    def _marks(self, table: str) -> dict[str, Any]:
        """Of the next message of the stream."""
        if self._transaction is None:
            return {}
        self._lsn += 1
        self._transaction[table] = self._transaction.get(table, 0) + 1
        return {
            "connector": "postgresql",
            "txId": self._number,
            "lsn": self._lsn,
            "sequence": json.dumps([str(self._behind), str(self._lsn)], separators=(",", ":")),
        }

    def roll_back(self, *statements: str) -> None:
        for statement in ("BEGIN", *statements, "ROLLBACK"):
            self._database.execute(statement)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self._rows(table).values()]

    def _rows(self, table: str) -> dict[int, dict[str, Any]]:
        names = [column["field"] for column in self._columns(table)]
        found = self._database.execute(f"SELECT rowid, {', '.join(names)} FROM {table} ORDER BY rowid").fetchall()
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in found}

    def _columns(self, table: str) -> list[dict[str, Any]]:
        info = self._database.execute(f"PRAGMA table_info({table})").fetchall()
        return [{"field": column[1], "type": TYPES[column[2]], "optional": not column[5]} for column in info]

    def _key(self, table: str) -> list[str]:
        info = self._database.execute(f"PRAGMA table_info({table})").fetchall()
        return [column[1] for column in info if column[5]]

    def _beginning(self, table: str) -> list[tuple[Any, Any]]:
        """What a topic looks like whose table was filled once and emptied since: its schema is known, no row is left.

        (A topic that never had a message tells no columns, and is refused.)
        """
        row = dict.fromkeys((column["field"] for column in self._columns(table)), 0)
        row = {name: "" if c["type"] == "string" else 0 for name, c in zip(row, self._columns(table), strict=True)}
        return [
            (self._keyed(table, row), self._envelope(table, "c", None, row)),
            (None, self._envelope(table, "t", None, None)),
        ]

    def _changes(
        self, table: str, before: dict[int, dict[str, Any]], after: dict[int, dict[str, Any]]
    ) -> list[tuple[Any, Any]]:
        messages: list[tuple[Any, Any]] = []
        key = self._key(table)
        for rowid, row in before.items():
            if rowid not in after:
                messages.append((self._keyed(table, row), self._envelope(table, "d", row, None)))
                if key:
                    messages.append((self._keyed(table, row), None))
        for rowid, row in after.items():
            if rowid not in before:
                messages.append((self._keyed(table, row), self._envelope(table, "c", None, row)))
            elif before[rowid] != row:
                messages.append((self._keyed(table, row), self._envelope(table, "u", before[rowid], row)))
        return messages

    # Messages

    def _keyed(self, table: str, row: Mapping[str, Any]) -> Any:
        key = self._key(table)
        if not key:
            return None
        columns = [column for column in self._columns(table) if column["field"] in key]
        return self._with_schema({name: row[name] for name in key}, "Key", columns)

    def _envelope(
        self, table: str, op: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        now_ms = int(time.time() * 1000)
        marks = self._marks(table)
        transaction = None
        if self._transaction:
            order = {"total_order": sum(self._transaction.values()), "data_collection_order": self._transaction[table]}
            transaction = {"id": f"{self._number}:{self._lsn}", **order}
        payload = {
            "transaction": transaction,
            "before": before,
            "after": after,
            "source": {"connector": "sqlite", "ts_ms": now_ms, "table": table, "snapshot": "false"} | marks,
            "op": op,
            "ts_ms": now_ms,
        }
        return self._with_schema(payload, "Envelope", envelope_fields(self._columns(table)))

    def _with_schema(self, payload: Mapping[str, Any], name: str, fields: Sequence[Mapping[str, Any]]) -> Any:
        if not self.schemas:
            return payload
        return {"schema": {"type": "struct", "fields": fields, "optional": False, "name": name}, "payload": payload}


def envelope_fields(columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The schema of an envelope around rows of these columns."""
    row = {"type": "struct", "fields": list(columns), "optional": True, "name": "Value"}
    return [
        {**row, "field": "before"},
        {**row, "field": "after"},
        {"type": "struct", "fields": [], "optional": False, "field": "source"},
        {"type": "string", "optional": False, "field": "op"},
        {"type": "int64", "optional": True, "field": "ts_ms"},
    ]
