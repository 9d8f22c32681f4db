"""Writers to PostgreSQL in a process of their own, and their journal: what each transaction did and how it ended.

Usage: journal_process.py URL SEED WRITERS PER_SECOND
Every transaction that has ended is one line of JSON: writer, number, outcome, values. A value is table, sign and token:
``+`` where a row with the token came to be, ``-`` where it ceased. A line ``hold`` on standard input lets no new
transaction begin and is answered with ``held``, ``go`` lets them begin again; the process ends with its input.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time

from pg8000.core import CoreConnection
from pg8000.exceptions import DatabaseError
from postgres_database import connect

TABLES = {
    "cells": "(id int PRIMARY KEY, token bigint NOT NULL, pad text)",
    "notes": "(id int PRIMARY KEY, token bigint NOT NULL, pad text)",
    "marks": "(id int, token bigint NOT NULL, pad text)",
}
KEYED = ("cells", "notes")
SCHEMA = [
    *(f"CREATE TABLE {name} {columns}" for name, columns in TABLES.items()),
    *(f"ALTER TABLE {name} REPLICA IDENTITY FULL" for name in TABLES),
]
ROWS = 300
MANY = 1500
AGAIN_S = 0.05

Value = tuple[str, str, int]


class Telling:
    """Lines of several threads, one at a time; and whether they may begin something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.may_begin = threading.Event()
        self.may_begin.set()
        self.ending = False

    def line(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)


class Writer(threading.Thread):
    """One connection, one transaction after the other."""

    def __init__(self, url: str, number: int, seed: str, per_second: float, telling: Telling) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._name = f"w{number}"
        self._chance = random.Random(f"{seed} {number}")
        self._per_second = per_second
        self._telling = telling
        self._next_token = number << 40
        self._number = 0
        self.idle = threading.Lock()

    def run(self) -> None:
        connection: CoreConnection | None = None
        while not self._telling.ending:
            if not self._telling.may_begin.wait(AGAIN_S):
                continue
            with self.idle:
                if not self._telling.may_begin.is_set():
                    continue
                try:
                    if connection is None:
                        connection = connect(self._url)
                        connection.execute_simple("SET deadlock_timeout = '20ms'")
                    self._transact(connection)
                except Exception:  # the server was away: how the transaction ended was told
                    connection = None
                    time.sleep(AGAIN_S)
            time.sleep(self._chance.expovariate(self._per_second))

    def _transact(self, connection: CoreConnection) -> None:
        self._number += 1
        values: list[Value] = []
        outcome = "aborted"
        try:
            connection.execute_simple("BEGIN")
            try:
                for _ in range(self._chance.randint(1, 5)):
                    self._statement(connection, values)
                if self._chance.random() < 0.1:
                    connection.execute_simple("ROLLBACK")
                    return
            except DatabaseError as error:
                if error.args[0].get("C") not in ("40P01", "23505", "40001"):
                    raise
                connection.execute_simple("ROLLBACK")
                return
            outcome = "unknown"
            connection.execute_simple("COMMIT")
            outcome = "committed"
        finally:
            self._tell(outcome, values)

    def _tell(self, outcome: str, values: list[Value]) -> None:
        fields = {"writer": self._name, "number": self._number, "outcome": outcome, "values": values}
        self._telling.line(json.dumps(fields))

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _statement(self, connection: CoreConnection, values: list[Value]) -> None:
        chance = self._chance
        table, row, token = chance.choice(KEYED), chance.randint(1, ROWS), self._token()
        pad = chance.choice(["NULL", f"'{'x' * chance.randint(0, 60)}'"])
        kind = chance.random()
        if kind < 0.3:
            sql = f"INSERT INTO {table} VALUES ({row}, {token}, {pad}) ON CONFLICT DO NOTHING RETURNING NULL, token"
        elif kind < 0.65:
            sql = f"UPDATE {table} SET token = {token}, pad = {pad} WHERE id = {row} RETURNING old.token, new.token"
        elif kind < 0.75:
            other = chance.randint(1, ROWS)
            sql = f"UPDATE {table} SET id = {other}, token = {token} WHERE id = {row} RETURNING old.token, new.token"
        elif kind < 0.85:
            sql = f"DELETE FROM {table} WHERE id = {row} RETURNING token, NULL"
        elif kind < 0.95:
            self._marks(connection, values)
            return
        else:
            self._undo(connection)
            return
        for old, new in connection.execute_simple(sql).rows or []:
            values += [(table, "-", int(old))] if old is not None else []
            values += [(table, "+", int(new))] if new is not None else []

    def _marks(self, connection: CoreConnection, values: list[Value]) -> None:
        """Rows of a table without a key, now and then so many that the log takes them in several pieces."""
        count = MANY if self._chance.random() < 0.05 else 2
        first = self._next_token + 1
        self._next_token += count
        connection.execute_simple(f"INSERT INTO marks SELECT 0, {first} + g FROM generate_series(0, {count - 1}) g")
        values += [("marks", "+", first + place) for place in range(count)]
        oldest = "SELECT ctid FROM marks LIMIT 3 FOR UPDATE SKIP LOCKED"
        found = connection.execute_simple(f"DELETE FROM marks WHERE ctid IN ({oldest}) RETURNING token")
        values += [("marks", "-", int(token)) for (token,) in found.rows or []]

    def _undo(self, connection: CoreConnection) -> None:
        """A subtransaction that comes to nothing inside one that may not: told as a transaction that was aborted."""
        token = self._token()
        connection.execute_simple("SAVEPOINT undone")
        connection.execute_simple(f"INSERT INTO marks VALUES (0, {token})")
        connection.execute_simple("ROLLBACK TO undone")
        self._tell("aborted", [("marks", "+", token)])


def main(url: str, seed: str, writers: str, per_second: str) -> None:
    telling = Telling()
    threads = [Writer(url, number, seed, float(per_second), telling) for number in range(1, int(writers) + 1)]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        if line.strip() == "hold":
            telling.may_begin.clear()
            for thread in threads:
                with thread.idle:
                    pass
            telling.line("held")
        else:
            telling.may_begin.set()
    telling.ending = True


if __name__ == "__main__":
    main(*sys.argv[1:])
