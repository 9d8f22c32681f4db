"""What a log is: durable, append-only topics, with position and cut in the transaction of the rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from raypipe.model import ChangeBatch, Claim, Cut


@dataclass(frozen=True, kw_only=True)
class LogBatch:
    """A batch as read back.

    A log that spreads a topic over partitions gives a batch back as several, one for each partition that has a share;
    an update that changed its key, and so its partition, is then a delete and an insert.

    Attributes:
        topic: It was appended to.
        offset: In the topic, or in the partition of it that it was read from; grows within each, gaps allowed.
        batch: The changes.
    """

    topic: str
    offset: int
    batch: ChangeBatch


@dataclass(frozen=True, kw_only=True)
class LogSlice:
    """A contiguous part of an epoch that one worker can read by itself; small, picklable.

    Attributes:
        begin: Text, opaque to all but the log that made it.
        end: Likewise.
        topics: To read.
        bytes: In the log, an estimate.
    """

    begin: str
    end: str
    topics: tuple[str, ...]
    bytes: int


class LogTransaction(Protocol):
    """Rows, position and cut that become visible together or not at all."""

    def append(self, topic: str, batch: ChangeBatch) -> None:
        """Adds a batch at the end of its topic."""
        ...

    def commit(self, position: str, *, boundary: bool, loading: Collection[str] = ()) -> Cut | None:
        """Makes the appends and the position durable; returns the new cut if ``boundary``, else None.

        Args:
            position: Of the writer's instance after these batches.
            boundary: They end on a transaction boundary of the instance.
            loading: Tables of this instance still loading; the cut joins it with those of the other instances.

        Raises:
            Fenced: a later claim exists; nothing was written.
            OutcomeUnknown: the store did not answer; read ``position`` back with a new claim.
            Unavailable: nothing was written.
        """
        ...

    def abort(self) -> None:
        """Forgets the appends; idempotent, also after a failed commit."""
        ...


class Log(Protocol):
    """Durable store between readers and steps. Used by one thread at a time; open one object for each user."""

    identity: str

    def claim(self, pipeline: str) -> Claim:
        """Begins a run: fences every older run of the pipeline, durably, and returns the right to write."""
        ...

    def renew(self, claim: Claim) -> Claim:
        """The next generation within the same run, for a writer that starts again.

        Raises:
            Fenced: a later run has begun.
        """
        ...

    def begin(self, instance: str, claim: Claim) -> LogTransaction:
        """Starts a transaction of the instance's reader and makes the claim's generation the lowest that may write."""
        ...

    def position(self, instance: str) -> str | None:
        """Position last committed for an instance, None if there is none."""
        ...

    def cuts(self, after: int = 0, limit: int = 1000) -> list[Cut]:
        """Cuts with a number above ``after``, oldest first, ``limit`` at most."""
        ...

    def cut(self, number: int) -> Cut | None:
        """The cut of that number, None if it is unknown (forgotten, or of another log)."""
        ...

    def last_cut(self) -> Cut | None:
        """The newest cut; every commit that has returned, in whatever process, is in it."""
        ...

    def known_cut(self) -> Cut | None:
        """The newest cut this object has heard of, milliseconds behind ``last_cut`` at most while the log answers.

        For loops that look every few milliseconds: it asks nobody over a network.
        """
        ...

    def slices(self, after: Cut | None, upto: Cut, topics: Collection[str], max_bytes: int) -> list[LogSlice]:
        """Splits what lies between two cuts into consecutive slices of about ``max_bytes``, never inside a batch.

        ``after=None`` begins with the oldest batch still kept.

        Raises:
            SourceGap: a cut is not one of this log as it is now.
        """
        ...

    def read(self, part: LogSlice) -> Iterator[LogBatch]:
        """Batches of a slice; those of one instance come in the order in which its reader appended them.

        The shares of one appended batch, spread over partitions, come in any order: each key is in one of them alone.

        Raises:
            Corrupt: a batch is not what was written (checksum).
            SourceGap: part of the slice is no longer there.
        """
        ...

    def load_begins(self, topic: str) -> int | None:
        """Offset of the newest TRUNCATE batch still kept in a topic: where its last load began; None if forgotten.

        To be compared with ``Cut.offsets[topic]``. Every partition of a topic gets every TRUNCATE, and this is its
        place in the first, which the cut calls by the topic's own name.
        """
        ...

    def retain(self, oldest: Cut) -> int:
        """Forgets batches every sink has committed: those below the cut. Returns the bytes set free."""
        ...

    def size(self) -> int:
        """Bytes of batches kept now; what others did may be missing for milliseconds, as with ``known_cut``."""
        ...

    def write_note(self, key: str, text: str | None) -> None:
        """Keeps a small text beside the log (status, requests); None removes it. Last write wins, not fenced."""
        ...

    def notes(self, prefix: str) -> Mapping[str, str]:
        """Notes whose key begins with a prefix; what others write once this object is open may take milliseconds."""
        ...

    def close(self) -> None:
        """Releases connections; idempotent."""
        ...


@runtime_checkable
class CanPrepare(Protocol):
    """A log in which an instance's first transaction takes long to begin."""

    def prepare(self, instance: str, claim: Claim) -> None:
        """Does what ``begin`` would do first, and writes nothing; while it does, nothing else is asked of the log.

        Raises:
            RaypipeError: as ``begin`` does.
        """
        ...
