"""Copies the WAL back into the file while the writer goes on: a commit that did it would be a slow one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress

from raypipe.errors import RaypipeError

# Bytes written since the last round at which the next one begins. Small: the WAL begins again at its start only if a
# round has copied all of it before the writer's next commit, and small rounds do.
ROUND_BYTES = 4 << 20


class Checkpoints:
    """One round at a time, each in a short-lived thread with a connection of its own.

    A round takes no lock that a writer or reader waits for. It promises nothing: what it does not copy, because it
    fails or falls behind, is copied by a commit once the WAL has reached ``layout.WAL_BYTES``.

    Args:
        connect: Opens another connection to the same file, or raises.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._written = 0
        self._round: threading.Thread | None = None

    def committed(self, size: int) -> None:
        """A commit put about so many bytes into the WAL."""
        self._written += size
        if self._written >= ROUND_BYTES and not self._under_way():
            self._written = 0
            self._round = threading.Thread(target=self._copy, name="raypipe-checkpoint", daemon=True)
            self._round.start()

    def close(self) -> None:
        """Waits for the round under way; idempotent."""
        if self._round is not None:
            self._round.join()
            self._round = None

    def _under_way(self) -> bool:
        return self._round is not None and self._round.is_alive()

    def _copy(self) -> None:
        with suppress(sqlite3.Error, RaypipeError), closing(self._connect()) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
