"""One open log file: its connection, its transactions, and the watch that it is still the file of its name."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raypipe.errors import Corrupt, InvariantBroken, OutcomeUnknown, RaypipeError, Unavailable
from raypipe.log.sqlite import layout
from raypipe.log.sqlite.checkpoints import Checkpoints
from raypipe.log.sqlite.failures import damaged, explain, explained, is_busy, unanswered

# Who waits for the write lock looks this often. SQLite itself sleeps for up to 0.1 s between two looks, and so misses
# the moments between the commits of a busy writer: a status note took 0.2 s beside one.
_LOOK_S = 0.001


class LogFile:
    """A connection to a log; not shared between threads at one time.

    Attributes:
        path: Of the file.
        identity: The log's UUID, made with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = path.absolute()  # a process may change its working directory, the watch goes by the path
        before = _inode(path)
        with explained(path):
            self._connection: sqlite3.Connection | None = layout.connect(path)
        self._checkpoints = Checkpoints(_beside(path, "-wal"), self._connect_again)
        try:
            with explained(path):
                self.identity = self._identify()
            # SQLite goes on writing to a file that has lost its name, and nobody would ever read it again. So the
            # files are remembered by inode. WAL and index exist by now, and while this connection is open SQLite
            # itself neither removes nor replaces them.
            self._inodes = {beside: _inode(beside) for beside in (path, _beside(path, "-wal"), _beside(path, "-shm"))}
            if self._inodes[path] != before:
                raise _removed(path, path)
        except BaseException:
            self.close()
            raise

    @classmethod
    def existing(cls, path: Path) -> LogFile:
        """Opens the log at ``path``.

        Raises:
            Unavailable: there is none, or it does not answer.
            Corrupt: the file is not a log, or damaged.
        """
        if not _exists(path):
            raise Unavailable(
                f"There is no log at {path}.",
                remedy="Check the path; `raypipe run` makes the log of a new pipeline.",
                log=str(path),
            )
        return cls(path)

    @classmethod
    def made(cls, path: Path) -> LogFile:
        """Opens the log at ``path``, and makes it before if there is none.

        Raises:
            Unavailable: it cannot be made or opened, or only its WAL is left.
            Corrupt: the file is not a log, or damaged.
        """
        wal = _beside(path, "-wal")
        # The order matters: a log that another process makes just now has its name before it has a WAL.
        if not _exists(path) and _exists(wal) and not _exists(path):
            # SQLite would replay the lost log's WAL into the new one.
            raise Unavailable(
                f"Log {path} is missing, but its write-ahead file {wal.name} is still there.",
                remedy=f"Put {path.name} back; or remove {wal.name} and {path.name}-shm as well and what the"
                " sinks hold, to begin anew: then every table is loaded again.",
                log=str(path),
            )
        if not _exists(path):
            try:
                layout.make(path)
            except sqlite3.Error as error:
                raise explain(path, error) from error
            except OSError as error:
                raise Unavailable(
                    f"Log {path} cannot be made: {error.strerror}.",
                    remedy="Check that its folder exists, may be written and has space.",
                    cause=error,
                    log=str(path),
                ) from error
        return cls(path)

    def _identify(self) -> str:
        (tables,) = self.one("SELECT count(*) FROM sqlite_schema")
        (application,) = self.one("PRAGMA application_id")
        if application != layout.APPLICATION_ID:
            what = "empty" if tables == 0 else "a SQLite database, but not a raypipe log"
            raise Corrupt(
                f"The file {self.path} is {what}.",
                remedy="Give `log:` another path, or remove the file if nobody needs it.",
                log=str(self.path),
            )
        (version,) = self.one("PRAGMA user_version")
        if version != layout.FORMAT:
            raise Corrupt(
                f"Log {self.path} has format {version}; this raypipe reads format {layout.FORMAT}.",
                remedy="Run the raypipe that wrote it, or give `log:` another path.",
                log=str(self.path),
            )
        return str(self.one("SELECT identity FROM state")[0])

    def close(self) -> None:
        """Releases the connection; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._checkpoints.close()
            with suppress(sqlite3.Error):
                connection.close()

    @property
    def in_transaction(self) -> bool:
        """Whether a write transaction is open."""
        return self._connection is not None and self._connection.in_transaction

    def run(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Executes one statement.

        Raises:
            RaypipeError: what SQLite's error means.
        """
        if self._connection is None:
            raise InvariantBroken(f"Log {self.path} was used after it was closed.")
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise explain(self.path, error) from error

    def all(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Every row of a statement: of the narrow tables, which hold a row for each batch, cut or topic."""
        cursor = self.run(sql, parameters)
        with explained(self.path):
            return cursor.fetchall()

    def first(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row of a statement, None if there is none."""
        cursor = self.run(sql, parameters)
        with explained(self.path):
            row: tuple[Any, ...] | None = cursor.fetchone()
            cursor.close()
        return row

    def one(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """The only row of a statement that always has one."""
        row = self.first(sql, parameters)
        if row is None:
            raise damaged(self.path, "a row that is always there is missing")
        return row

    def watch(self) -> None:
        """Makes sure that what is open here is still what the path names; costs three calls of stat.

        Raises:
            Unavailable: the file, its WAL or its index was removed or replaced.
        """
        for path, inode in self._inodes.items():
            if _inode(path) != inode:
                raise _removed(self.path, path)

    def begin(self, *, durable: bool = True) -> None:
        """Opens a write transaction; waits for other writers.

        Args:
            durable: Its commit waits until it would survive a power cut. One that does not wait becomes durable with
                the next that does, and is never durable in part or out of order.
        """
        self.watch()
        self.run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        deadline = time.monotonic() + layout.BUSY_TIMEOUT_S
        self.run("PRAGMA busy_timeout = 0")
        try:
            while not self._locked(time.monotonic() >= deadline):
                time.sleep(_LOOK_S)
        finally:
            self.run(f"PRAGMA busy_timeout = {int(1000 * layout.BUSY_TIMEOUT_S)}")

    def _locked(self, at_last: bool) -> bool:
        """Tries to take the write lock; False if another writer has it, an error if that was the last try."""
        try:
            self.run("BEGIN IMMEDIATE")
        except Unavailable as error:
            if at_last or not isinstance(error.__cause__, sqlite3.Error) or not is_busy(error.__cause__):
                raise
            return False
        return True

    def commit(self, size: int = 0) -> None:
        """Ends the write transaction; durably, unless it was begun otherwise.

        Args:
            size: Bytes of payloads that it wrote.

        Raises:
            Unavailable: nothing was written.
            OutcomeUnknown: it may or may not have been.
        """
        try:
            self.watch()
            self._commit()
        except BaseException:
            self.rollback()
            raise
        try:
            self.watch()
        except RaypipeError as error:
            raise OutcomeUnknown(error.message, remedy=error.remedy, log=str(self.path)) from error
        self._checkpoints.committed(size)

    def _connect_again(self) -> sqlite3.Connection:
        """For another thread."""
        connection = layout.connect(self.path)
        try:
            self.watch()
        except BaseException:
            connection.close()
            raise
        return connection

    def _commit(self) -> None:
        if self._connection is None:
            raise InvariantBroken(f"Log {self.path} was used after it was closed.")
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise unanswered(self.path, error) from error

    def rollback(self) -> None:
        """Forgets the write transaction; idempotent."""
        if self._connection is not None and self._connection.in_transaction:
            # After some errors SQLite has rolled back by itself, and after others it cannot; both are the same to us.
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """A write transaction around the block, see ``begin``; an error within forgets it."""
        self.begin(durable=durable)
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A read transaction around the block, which must be short: an open one keeps the WAL from being reused."""
        if self.in_transaction:
            raise InvariantBroken(
                f"Log {self.path} was read beside an unfinished transaction of the same object.",
                remedy="Commit or abort it first, or open another log object.",
            )
        self.watch()
        self.run("BEGIN")
        try:
            yield
        finally:
            self.rollback()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _exists(path: Path) -> bool:
    return _inode(path) is not None


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _removed(log: Path, missing: Path) -> Unavailable:
    return Unavailable(
        f"Log {log} is in use, but {missing.name} was removed or replaced by another file.",
        remedy="Nothing more is taken from the sources. Stop the pipeline and put the log's files back where they were;"
        " or, if they are lost, remove what is left of them and what the sinks hold, and run again to load anew.",
        log=str(log),
    )
