"""The log in one SQLite file: what ``raypipe.contracts.Log`` asks, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from raypipe.codec import Compression
from raypipe.contracts import LogBatch, LogSlice
from raypipe.errors import InvariantBroken
from raypipe.log.sqlite import cuts, fence, reading, retention
from raypipe.log.sqlite.file import LogFile
from raypipe.log.sqlite.progress import read_progress
from raypipe.log.sqlite.transaction import SqliteLogTransaction
from raypipe.model import Claim, Cut


class SqliteLog:
    """A log in a SQLite file in WAL mode; see ``raypipe.contracts.Log``.

    Any number of processes may hold one open: readers never wait for the writer, writers wait for each other for the
    length of one transaction. Every call makes sure that the file still has its name (``LogFile.watch``).

    Args:
        file: The opened file, owned by this object.
        compression: Of the batches it appends.
    """

    def __init__(self, file: LogFile, compression: Compression) -> None:
        self._file = file
        self._compression = compression
        self._transaction: SqliteLogTransaction | None = None
        self.identity = file.identity

    @classmethod
    def create(cls, path: Path, compression: Compression = Compression.LZ4) -> SqliteLog:
        """Opens the log at ``path``, made before if there is none.

        Raises:
            Unavailable: it cannot be made or opened.
            Corrupt: damaged, or not a log.
        """
        return cls(LogFile.made(path), compression)

    @classmethod
    def open(cls, path: Path, compression: Compression = Compression.LZ4) -> SqliteLog:
        """Opens the log at ``path``.

        Raises:
            Unavailable: there is none, or it does not answer.
            Corrupt: damaged, or not a log.
        """
        return cls(LogFile.existing(path), compression)

    def claim(self, pipeline: str) -> Claim:
        """Begins a run: fences every older run of the pipeline, durably, and returns the right to write.

        Raises:
            RaypipeError: the log belongs to another pipeline.
        """
        self._require_idle()
        return fence.claim(self._file, pipeline)

    def renew(self, claim: Claim) -> Claim:
        """The next generation within the same run, for a writer that starts again.

        Raises:
            Fenced: a later run has begun.
        """
        self._require_idle()
        return fence.renew(self._file, claim)

    def begin(self, instance: str, claim: Claim) -> SqliteLogTransaction:
        """Starts a transaction of the instance's reader and makes the claim's generation the lowest that may write.

        One transaction at a time: the one before must have been committed or aborted.

        Raises:
            Fenced: a later run or generation has begun.
            Unavailable: the log does not answer.
        """
        self._require_idle()
        self._file.watch()
        fence.raise_floor(self._file, instance, claim)
        self._transaction = SqliteLogTransaction(self._file, instance, claim, self._compression)
        return self._transaction

    def position(self, instance: str) -> str | None:
        """Position last committed for an instance, None if there is none."""
        self._file.watch()
        return read_progress(self._file, instance).position

    def cuts(self, after: int = 0, limit: int = 1000) -> list[Cut]:
        """Cuts with a number above ``after``, oldest first, ``limit`` at most."""
        self._file.watch()
        return cuts.cuts(self._file, after, limit)

    def cut(self, number: int) -> Cut | None:
        """The cut of that number, None if it is unknown (forgotten, or of another log)."""
        self._file.watch()
        return cuts.cut(self._file, number)

    def last_cut(self) -> Cut | None:
        """The newest cut."""
        self._file.watch()
        return cuts.last_cut(self._file)

    def slices(self, after: Cut | None, upto: Cut, topics: Collection[str], max_bytes: int) -> list[LogSlice]:
        """Splits what lies between two cuts into consecutive slices of about ``max_bytes``, never inside a batch.

        ``after=None`` begins with the oldest batch still kept.

        Raises:
            SourceGap: a cut, or part of what lies between, is no longer there.
        """
        return reading.slices(self._file, after, upto, topics, max_bytes)

    def read(self, part: LogSlice) -> Iterator[LogBatch]:
        """Batches of a slice; those of one instance come in the order in which its reader appended them.

        Raises:
            Corrupt: a batch is missing or not what was written.
            SourceGap: part of the slice was forgotten.
        """
        return reading.read(self._file, part)

    def load_begins(self, topic: str) -> int | None:
        """Offset of the newest TRUNCATE batch still kept in a topic: where its last load began; None if forgotten."""
        self._file.watch()
        return reading.load_begins(self._file, topic)

    def retain(self, oldest: Cut) -> int:
        """Forgets batches every sink has committed: those below the cut. Returns the bytes set free."""
        self._require_idle()
        return retention.retain(self._file, oldest)

    def size(self) -> int:
        """Bytes of all batches kept now, committed ones only: what a bound on the log's size is compared with."""
        self._file.watch()
        return int(self._file.one("SELECT kept_bytes FROM state")[0])

    def write_note(self, key: str, text: str | None) -> None:
        """Keeps a small text beside the log (status, requests); None removes it.

        Last write wins, not fenced; a power cut may take back what was written just before.
        """
        self._require_idle()
        with self._file.transaction(durable=False):
            if text is None:
                self._file.run("DELETE FROM notes WHERE key = ?", (key,))
            else:
                self._file.run(
                    "INSERT INTO notes (key, text) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET text = excluded.text",
                    (key, text),
                )

    def notes(self, prefix: str) -> Mapping[str, str]:
        """Notes whose key begins with a prefix."""
        self._file.watch()
        rows = self._file.all("SELECT key, text FROM notes WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
        return dict(rows)

    def close(self) -> None:
        """Releases the file; forgets an unfinished transaction; idempotent."""
        if self._transaction is not None:
            self._transaction.abort()
        self._file.close()

    def _require_idle(self) -> None:
        if self._transaction is not None and self._transaction.is_open:
            raise InvariantBroken(
                f"Log {self._file.path} was asked to write beside an unfinished transaction.",
                remedy="Commit or abort it first, or open another log object.",
            )
