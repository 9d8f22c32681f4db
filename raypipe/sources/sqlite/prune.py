"""Forgets changes that are durable in the log, little by little, so that no writer waits for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from raypipe.sources.sqlite.connect import BUSY_TIMEOUT_S, writing
from raypipe.sources.sqlite.install import CAPTURES, MARKS
from raypipe.sources.sqlite.triggers import CLOCK, change_table, stash_table

# Rows deleted under one write lock: some ten milliseconds that a writer may have to wait.
ROWS_AT_ONCE = 10_000
# While changes flow there are better uses of the time; what is read and durable waits a second, or until idle,
PAUSE_S = 1.0
# unless this many wait: then every acknowledgement prunes, which bounds the space they take.
MANY_CHANGES = 200_000
# Pruning can wait, a writer should not: give up at once where the file is busy.
PATIENCE_MS = 20


class Pruner:
    """Prunes one source up to the last position acknowledged; the change at that position stays, as its mark."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._acknowledged = 0
        self._done = 0  # everything before is pruned
        self._last_s = float("-inf")

    def acknowledge(self, seq: int) -> None:
        """Notes that changes up to a number are durable, and prunes some if it is time."""
        self._acknowledged = max(self._acknowledged, seq)
        waiting = self._acknowledged - self._done
        if waiting > MANY_CHANGES or (waiting and time.monotonic() - self._last_s >= PAUSE_S):
            self.prune()

    def prune(self) -> bool:
        """Deletes a bounded number of changes; returns whether there were any. A busy source is left alone."""
        if self._done >= self._acknowledged:
            return False
        self._last_s = time.monotonic()
        try:
            with self._impatiently(), writing(self._connection):
                if self._delete_some() < ROWS_AT_ONCE:
                    self._done = self._acknowledged
        except sqlite3.OperationalError:
            return False  # locked, full or read-only: the next read says so, if it matters there
        return True

    @contextmanager
    def _impatiently(self) -> Iterator[None]:
        self._connection.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}")
        try:
            yield
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")

    def _delete_some(self) -> int:
        execute, upto = self._connection.execute, self._acknowledged
        left, highest = ROWS_AT_ONCE, 0
        for number, until in execute(f"SELECT number, until FROM {CAPTURES} WHERE NOT drained").fetchall():
            changes = change_table(number)
            (last,) = execute(
                f"SELECT max(id) FROM (SELECT id FROM {changes} WHERE id < ? ORDER BY id LIMIT ?)", (upto * 2, left)
            ).fetchone()
            if last is not None:
                left -= execute(f"DELETE FROM {changes} WHERE id <= ?", (last,)).rowcount
                highest = max(highest, last // 2)
            if until is None:
                # Rows that OR IGNORE left behind; no statement is under way while we hold the lock.
                if execute(f"SELECT 1 FROM {stash_table(number)} LIMIT 1").fetchone() is not None:
                    execute(f"DELETE FROM {stash_table(number)}")
            elif until <= upto and left:
                # The empty table goes with the next change of the schema: this one would look like a VACUUM.
                execute(f"UPDATE {CAPTURES} SET drained = 1 WHERE number = ?", (number,))
        execute(f"DELETE FROM {MARKS} WHERE seq < ?", (upto,))
        execute(f"UPDATE {CLOCK} SET acknowledged = max(acknowledged, ?), pruned = max(pruned, ?)", (upto, highest))
        return ROWS_AT_ONCE - left
