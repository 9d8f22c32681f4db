"""Copies the WAL back into the file while the writer goes on: a commit that did it would be a slow one."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from raypipe.errors import RaypipeError
from raypipe.log.sqlite import layout

# Bytes of payloads since the last round at which the next one begins. Pages that every commit touches do not count: a
# commit that copies back hundreds of versions of few pages is a quick one. The WAL begins again at its start only if a
# round has copied all of it before the next commit, and small rounds do: measured with commits of 5 MB, rounds of 4 MB
# cost them nothing, rounds of 16 MB half as much as no rounds at all.
ROUND_BYTES = 4 << 20


class Checkpoints:
    """One round at a time, each in a short-lived thread with a connection of its own.

    A round takes no lock that a reader or a writer waits for, and it promises nothing: what it fails to copy, or copies
    too late, is copied by a commit once the WAL has reached ``layout.WAL_BYTES``.

    Args:
        wal: The WAL's path.
        connect: Opens another connection to the same log; an error of SQLite's or raypipe's ends the round.
    """

    def __init__(self, wal: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        self._wal = wal
        self._connect = connect
        self._written = 0
        self._round: threading.Thread | None = None

    def committed(self, size: int) -> None:
        """A commit put so many bytes of payloads into the WAL."""
        self._written += size
        if self._written >= ROUND_BYTES and not self._under_way() and not self._outgrown():
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

    def _outgrown(self) -> bool:
        """Whether it is the commits' turn: while a round is under way theirs is refused, so the next one must wait."""
        with suppress(OSError):
            return os.stat(self._wal).st_size > layout.WAL_BYTES
        return False

    def _copy(self) -> None:
        with suppress(sqlite3.Error, RaypipeError), closing(self._connect()) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
