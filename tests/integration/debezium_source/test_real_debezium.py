"""What a real Debezium writes of a real PostgreSQL comes to what PostgreSQL holds."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from debezium_lab import ANSWER_S, PLAIN_JSON, DebeziumLab
from servers import missing_skips

from cluster.services.connect import ConnectWorker
from cluster.services.home import Home
from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import PostgresServer
from cluster.services.servers import private_connect
from raypipe.contracts import Piece
from raypipe.model import OP, Op
from raypipe.sources import open_source
from raypipe.sources.debezium import DebeziumSource
from raypipe.sources.quarantine import QUARANTINE

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("connect")]

TYPES = {
    "b": ("bool", "true"),
    "s": ("smallint", "-3"),
    "l": ("bigint", "9007199254740993"),
    "d": ("double precision", "0.1"),
    "n": ("numeric(12,2)", "-12345678.90"),
    "txt": ("text", "'ä\"x'"),
    "vc": ("varchar(5)", "'abc'"),
    "by": ("bytea", "'\\x00ff'"),
    "dt": ("date", "'2020-02-29'"),
    "tm": ("time", "'12:34:56.789012'"),
    "ts": ("timestamp", "'2020-01-01 12:34:56.123456'"),
    "tz": ("timestamptz", "'2020-01-01 12:34:56.123456+02'"),
    "u": ("uuid", "'b5d9d1c1-1111-2222-3333-444455556666'"),
    "jb": ("jsonb", '\'{"a": 1.0, "b": [1]}\''),
    "m": ("mood", "'ok'"),
    "ip": ("inet", "'10.0.0.1/24'"),
    "rg": ("int4range", "'[1,5)'"),
}
# What shows the same value where a column's type is no exact one in this setting.
SETTINGS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "default": ({}, {}),
    "schemaless": (
        PLAIN_JSON,
        {
            "n": "NULL",  # base64, and nothing says of what
            "by": "encode(by, 'base64')",
            "dt": "dt - DATE '1970-01-01'",
            "tm": "(extract(epoch FROM tm) * 1000000)::bigint",
            "ts": "(extract(epoch FROM ts) * 1000000)::bigint",
            "tz": "to_char(tz AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        },
    ),
    "decimals and times as text": (
        {"decimal.handling.mode": "string", "time.precision.mode": "isostring"},
        {
            "n": "n::text",
            "dt": "dt::text || 'Z'",
            "tm": "tm::text || 'Z'",
            "ts": "replace(ts::text, ' ', 'T') || 'Z'",
        },
    ),
    "decimals as doubles, times of Connect": (
        {"decimal.handling.mode": "double", "time.precision.mode": "connect"},
        {"n": "n::float8", "tm": "date_trunc('milliseconds', tm)::time", "ts": "date_trunc('milliseconds', ts)"},
    ),
}


class Held:
    """What the changes of a source add up to."""

    def __init__(self, source: DebeziumSource, keys: dict[str, int | None]) -> None:
        self.source = source
        self.rows: dict[str, Counter[tuple[Any, ...]]] = {table: Counter() for table in keys}
        self.names: dict[str, tuple[str, ...]] = {}
        self.quarantine: dict[str, dict[str, Any]] = {}
        self.position: str | None = None
        self._keys = keys

    def step(self) -> Piece | None:
        piece = self.source.poll(1 << 20)
        if piece is None:
            return None
        for batch in piece.batches:
            for row in batch.rows.to_pylist():
                self._fold(batch.schema.table.table, batch.schema.names, row)
        self.position = piece.position
        return piece

    def _fold(self, table: str, names: tuple[str, ...], row: dict[str, Any]) -> None:
        op, values = Op(row[OP]), tuple(row[name] for name in names)
        if table == QUARANTINE:
            if op is Op.TRUNCATE:
                self.quarantine.clear()
            elif op.weight > 0:
                self.quarantine[row["row_key"]] = row
            else:
                self.quarantine.pop(row["row_key"], None)
            return
        self.names[table] = names
        held, key = self.rows[table], self._keys[table]
        if op is Op.TRUNCATE:
            held.clear()
        elif key is None:
            held[values] += op.weight
            assert held[values] >= 0, "a row goes that is not there"
        else:
            for other in [one for one in held if one[key] == values[key]]:
                del held[other]
            if op.weight > 0:
                held[values] = 1

    def until(self, there: Any, what: str) -> None:
        deadline = time.monotonic() + ANSWER_S
        while not there():
            assert time.monotonic() < deadline, f"not in time: {what}"
            if self.step() is None:
                self.source.wait(0.2)

    def present(self, table: str) -> Counter[tuple[Any, ...]]:
        return +self.rows[table]


@pytest.fixture(scope="module")
def worker(services_home: Home, kafka: KafkaCluster) -> Iterator[ConnectWorker]:
    # Positions are written often: a connector that is killed before its first one takes its snapshot again.
    with (
        missing_skips(),
        private_connect(services_home, kafka.bootstrap, {"offset.flush.interval.ms": "300"}) as worker,
    ):
        yield worker


@pytest.fixture
def lab(worker: ConnectWorker, kafka: KafkaCluster, postgres15: PostgresServer) -> Iterator[DebeziumLab]:
    worker.start()
    lab = DebeziumLab(worker, kafka, postgres15)
    yield lab
    worker.start()
    lab.close()


def opened(lab: DebeziumLab, prefix: str, keys: dict[str, int | None], options: str = "") -> Held:
    source = open_source("shop", f"kafka://{lab.kafka.bootstrap}?prefix={prefix}{options}", list(keys))
    assert isinstance(source, DebeziumSource)
    held = Held(source, keys)
    source.open(None)
    return held


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_common_type_comes_as_what_postgresql_holds(lab: DebeziumLab, setting: str) -> None:
    more, shown = SETTINGS[setting]
    shown = {"ip": "host(ip) || '/' || masklen(ip)"} | shown  # the driver would cut it down to its network
    names, values = ", ".join(TYPES), ", ".join(value for _, value in TYPES.values())
    lab.write(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        f"CREATE TABLE t (id int PRIMARY KEY, {', '.join(f'{name} {type_}' for name, (type_, _) in TYPES.items())})",
        f"INSERT INTO t (id, {names}) VALUES (1, {values})",
        "INSERT INTO t (id) VALUES (2)",
    )
    prefix = lab.capture("types", "public.t", more)
    lab.write(f"INSERT INTO t (id, {names}) VALUES (3, {values})", "INSERT INTO t (id) VALUES (4)")
    lab.write("UPDATE t SET l = l + 1 WHERE id = 1", "UPDATE t SET id = 5 WHERE id = 2", "DELETE FROM t WHERE id = 4")
    lab.write("INSERT INTO t (id) VALUES (9)")
    held = opened(lab, prefix, {"t": 0})
    held.until(lambda: any(row[0] == 9 for row in held.present("t")), "the last row")
    exact = [name for name in TYPES if shown.get(name) != "NULL"]
    columns = ", ".join(shown.get(name, name) for name in exact)
    places = [held.names["t"].index(name) for name in ("id", *exact)]
    found = sorted(tuple(row[place] for place in places) for row in held.present("t"))
    assert [_plain(row) for row in found] == [
        _plain(row) for row in lab.rows(f"SELECT id, {columns} FROM t ORDER BY id")
    ]
    held.source.close()


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values as both sides can show them."""

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("{"):
            return json.loads(value)
        if isinstance(value, dict | int | float | bytes | str) or value is None:
            return value
        return str(value).removesuffix("+00:00").rstrip()

    return tuple(plain(value) for value in row)


def test_a_killed_connector_tells_again_and_no_cut_is_torn(lab: DebeziumLab) -> None:
    lab.write(
        "CREATE TABLE a (id int PRIMARY KEY, n int)",
        "CREATE TABLE b (id int PRIMARY KEY, n int)",
        "CREATE TABLE notes (body text)",
        "ALTER TABLE notes REPLICA IDENTITY FULL",
        "INSERT INTO a SELECT i, 0 FROM generate_series(1, 50) i",
        "INSERT INTO b SELECT i, 0 FROM generate_series(1, 50) i",
        "INSERT INTO notes VALUES ('same'), ('same')",
    )
    more = PLAIN_JSON | {"provide.transaction.metadata": "true", "skipped.operations": "none"}
    prefix = lab.capture("moves", "public.*", more)
    server = prefix.removesuffix(".public")
    lab.write("UPDATE a SET n = n + 1", "UPDATE b SET n = n + 1")  # makes the transaction topic
    lab.await_(lambda: f"{server}.transaction" in lab.topics(), "the transaction topic")
    keys = {"a": 0, "b": 0, "notes": None}
    held = opened(lab, prefix, keys, f"&transactions={server}.transaction")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            stop.wait(0.05)
            lab.write(
                f"UPDATE a SET n = n + {number} WHERE id % 5 = {number % 5}",
                f"UPDATE b SET n = n + {number} WHERE id % 5 = {number % 5}",
                f"INSERT INTO notes VALUES ('{number % 3}')",
                f"DELETE FROM notes WHERE ctid IN (SELECT ctid FROM notes WHERE body = '{number % 2}' LIMIT 1)",
                f"UPDATE a SET id = id + 1000 WHERE id = {number}",
                f"UPDATE b SET id = id + 1000 WHERE id = {number}",
            )

    writer = threading.Thread(target=write)
    writer.start()
    cuts = 0
    try:
        for _ in range(2):
            deadline = time.monotonic() + 2.0
            while time.monotonic() < deadline or not cuts:
                piece = held.step()
                if piece is None:
                    held.source.wait(0.1)
                elif piece.boundary and not piece.loading:
                    cuts += 1
                    assert held.present("a") == held.present("b")
            lab.worker.kill_streaming(server)  # without a position it would take its snapshot again
            lab.worker.start()
            lab.again("moves")
            held.source.close()
            held.source.open(held.position)
    finally:
        stop.set()
        writer.join()
    lab.write("TRUNCATE a, b", "INSERT INTO a VALUES (1, 1)", "INSERT INTO b VALUES (1, 1)")
    lab.write("ALTER TABLE a ADD COLUMN more text", "ALTER TABLE b ADD COLUMN more text")
    lab.write(
        "INSERT INTO a VALUES (7, 7, 'x')", "INSERT INTO b VALUES (7, 7, 'x')", "INSERT INTO notes VALUES ('end')"
    )
    held.until(lambda: (7, 7, "x") in held.present("b") and ("end",) in held.present("notes"), "the last row")
    while held.step() is not None:
        pass
    assert cuts
    for table in ("a", "b", "notes"):
        assert held.present(table) == Counter(lab.rows(f"SELECT * FROM {table}"))
    held.source.close()


def test_a_large_value_that_was_not_sent_is_parked_and_not_taken_for_a_value(lab: DebeziumLab) -> None:
    lab.write(
        "CREATE TABLE t (id int PRIMARY KEY, n int, large text, list int[])",
        "ALTER TABLE t ALTER COLUMN large SET STORAGE EXTERNAL",
        "INSERT INTO t VALUES (1, 1, repeat('x', 9000), '{1}'), (2, 1, 'short', '{2}')",
    )
    prefix = lab.capture("large", "public.t")
    lab.write("UPDATE t SET n = 2")
    held = opened(lab, prefix, {"t": 0})
    held.until(lambda: (2, 2, "short", "[2]") in held.present("t"), "the second row")
    assert [row[0] for row in held.present("t")] == [2]
    (parked,) = held.quarantine.values()
    assert (parked["column_name"], parked["reason"]) == ("large", "a large value that the source was not sent")
    with held.source.view() as view:
        assert [row["id"] for batch in view.rows("shop.t") for row in batch.to_pylist()] == [2]
        assert view.parked("shop.t") == 1
    lab.write("UPDATE t SET n = 3, large = repeat('y', 9000) WHERE id = 1")
    held.until(lambda: len(held.present("t")) == 2, "the row with its value")
    assert not held.quarantine
    held.source.close()
