"""One transaction of a reader: its batches, position and cut, in one SQL transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import faults
from raypipe.codec import Compression, checksum, encode, split
from raypipe.errors import InvariantBroken, LimitExceeded
from raypipe.log.sqlite import fence
from raypipe.log.sqlite.cuts import publish
from raypipe.log.sqlite.file import LogFile
from raypipe.log.sqlite.progress import read_progress, write_progress
from raypipe.model import OP, ChangeBatch, Claim, Cut, Op

# Appends wait in memory up to here, so that a common transaction holds the write lock for milliseconds only; a larger
# one takes the lock early and goes on inside it.
_WAITING_BYTES = 32 << 20

# SQLite's own bound is 1,000,000,000 bytes for a value.
_PAYLOAD_BYTES = 900_000_000


@dataclass(frozen=True, kw_only=True)
class _Append:
    topic: str
    payload: pa.Buffer
    rows: int
    begins_load: bool


class SqliteLogTransaction:
    """See ``raypipe.contracts.LogTransaction``; made by ``SqliteLog.begin``.

    Args:
        file: To write to.
        instance: Whose reader writes.
        claim: Its right to.
        compression: Of the payloads.
    """

    def __init__(self, file: LogFile, instance: str, claim: Claim, compression: Compression) -> None:
        self._file = file
        self._instance = instance
        self._claim = claim
        self._compression = compression
        self._waiting: list[_Append] = []
        self._waiting_bytes = 0
        self._written = 0
        self._topics: dict[str, tuple[int, int]] = {}  # id and next offset, as this transaction has moved it
        self._open = True

    def append(self, topic: str, batch: ChangeBatch) -> None:
        """Adds a batch at the end of its topic; a large one in several parts, which are read back as such.

        Raises:
            LimitExceeded: one change is too large to be stored.
            Unavailable: the log does not answer; nothing was written.
        """
        self._require_open()
        faults.point("log.append.before")
        for part in split(batch):
            payload = encode(part, self._compression)
            if payload.size > _PAYLOAD_BYTES:
                raise LimitExceeded(
                    f"A change of table {batch.schema.table} takes {payload.size} bytes; the SQLite log holds"
                    f" {_PAYLOAD_BYTES} at most.",
                    remedy="Leave the table out of the pipeline, or keep such values outside of the database.",
                    table=str(batch.schema.table),
                    bytes=payload.size,
                )
            begins_load = bool(pc.any(pc.equal(part.rows.column(OP), int(Op.TRUNCATE))).as_py())
            self._waiting.append(_Append(topic=topic, payload=payload, rows=part.num_rows, begins_load=begins_load))
            self._waiting_bytes += payload.size
        if self._waiting_bytes > _WAITING_BYTES:
            self._insert_waiting()
        faults.point("log.append.after")

    def commit(self, position: str, *, boundary: bool, loading: Collection[str] = ()) -> Cut | None:
        """Makes the appends and the position durable; returns the new cut if ``boundary``, else None.

        Raises:
            Fenced: a later claim exists; nothing was written.
            OutcomeUnknown: read ``position`` back with a new claim.
            Unavailable: nothing was written.
        """
        self._require_open()
        if faults.armed("mutant.position_before_data"):
            self._commit_position_alone(position, loading)
        try:
            self._insert_waiting()
            progress = read_progress(self._file, self._instance).advanced(position, loading)
            whole = boundary or faults.armed("mutant.torn_cut")
            write_progress(self._file, self._instance, progress.at_boundary() if whole else progress)
            cut = publish(self._file, self._instance) if whole else None
            faults.point("log.commit.before")
            self._file.commit(self._written)
        except BaseException:
            self.abort()
            raise
        self._open = False
        faults.point("log.commit.after")
        return cut

    def abort(self) -> None:
        """Forgets the appends; idempotent, also after a failed commit."""
        if self._open:
            self._open = False
            self._waiting.clear()
            self._file.rollback()

    @property
    def is_open(self) -> bool:
        """Whether it was neither committed nor aborted."""
        return self._open

    def _require_open(self) -> None:
        if not self._open:
            raise InvariantBroken(f"A log transaction of instance {self._instance} was used after its end.")

    def _enter(self) -> None:
        """Takes the write lock, and from then on nobody can take the claim away."""
        if not self._file.in_transaction:
            self._file.begin()
            fence.check(self._file, self._instance, self._claim)

    def _insert_waiting(self) -> None:
        self._enter()
        if not self._waiting:
            return
        (next_number,) = self._file.one(
            "UPDATE state SET next_number = next_number + ?, kept_bytes = kept_bytes + ? RETURNING next_number",
            (len(self._waiting), self._waiting_bytes),
        )
        for number, append in enumerate(self._waiting, start=next_number - len(self._waiting)):
            topic, offset = self._next_offset(append.topic)
            crc = checksum(append.payload, f"{append.topic}/{offset}")
            self._file.run(
                "INSERT INTO pending (number, topic, offset, rows, bytes, checksum, begins_load)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, topic, offset, append.rows, append.payload.size, crc, append.begins_load),
            )
            self._file.run("INSERT INTO payloads (number, payload) VALUES (?, ?)", (number, append.payload))
        for topic, next_offset in self._topics.values():
            self._file.run("UPDATE topics SET next_offset = ? WHERE id = ?", (next_offset, topic))
        self._waiting.clear()
        self._written += self._waiting_bytes
        self._waiting_bytes = 0

    def _next_offset(self, name: str) -> tuple[int, int]:
        if name not in self._topics:
            self._file.run("INSERT OR IGNORE INTO topics (name, instance) VALUES (?, ?)", (name, self._instance))
            topic, offset, owner = self._file.one(
                "SELECT id, next_offset, instance FROM topics WHERE name = ?", (name,)
            )
            if owner != self._instance:
                raise InvariantBroken(f"Topic {name} belongs to instance {owner}, not to {self._instance}.")
            self._topics[name] = (topic, offset)
        topic, offset = self._topics[name]
        self._topics[name] = (topic, offset + 1)
        return topic, offset

    def _commit_position_alone(self, position: str, loading: Collection[str]) -> None:
        """A mutant: what a log would be that moves its position in another transaction than its rows."""
        if not self._file.in_transaction:
            with self._file.transaction():
                progress = read_progress(self._file, self._instance).advanced(position, loading)
                write_progress(self._file, self._instance, progress)
