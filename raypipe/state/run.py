"""Runs: immutable sorted rows of one trace, in memory while their epoch lasts, then in a file that is mapped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.codec import checksum, taken
from raypipe.codec.rowhash import Words
from raypipe.errors import StateLost
from raypipe.state.order import places_of
from raypipe.state.places import LOWER_HALF
from raypipe.state.search import Indexes, find, sample
from raypipe.state.weights import with_ones, without_weight


@dataclass(frozen=True, kw_only=True)
class Block:
    """A piece of a run in its file: one Arrow IPC record batch message.

    Attributes:
        offset: In the file, a multiple of 64.
        length: Bytes.
        rows: How many.
        first: Lowest place.
        last: Highest place.
        crc: Checksum of the bytes.
        ones: Every row has the weight 1, so weights are not stored.
    """

    offset: int
    length: int
    rows: int
    first: int
    last: int
    crc: int
    ones: bool = False


class Held:
    """Rows in memory."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        at = places_of(batch)
        self.batch = batch
        self.sampled = sample(at)
        self.rows = int(batch.num_rows)
        self.bytes = int(batch.nbytes)
        self.first, self.last = int(at[0]), int(at[-1])

    def read(self) -> pa.RecordBatch:
        """The rows."""
        return self.batch


class Stored:
    """Rows in a mapped file, checked against their checksum when they are first read.

    Raises, when it is read:
        StateLost: the bytes are not those that were written.
    """

    def __init__(self, block: Block, content: pa.Buffer, schema: pa.Schema, trace: str, file: str) -> None:
        self.block = block
        self.rows, self.bytes, self.first, self.last = block.rows, block.length, block.first, block.last
        self._content = content
        self._schema = schema
        self._trace = trace
        self._file = file
        self.sampled: Words | None = None
        self._batch: pa.RecordBatch | None = None
        self._lock = threading.Lock()

    def read(self) -> pa.RecordBatch:
        """The rows; nothing is copied."""
        if self._batch is None:
            with self._lock:
                if self._batch is None:
                    batch = self._checked()
                    self.sampled = sample(places_of(batch))
                    self._batch = batch
        return self._batch

    def _checked(self) -> pa.RecordBatch:
        if checksum(self._content, self._trace) != self.block.crc:
            raise self._lost("its checksum differs")
        try:
            message = pa.ipc.read_message(self._content)
            if not self.block.ones:
                return pa.ipc.read_record_batch(message, self._schema)
            return with_ones(pa.ipc.read_record_batch(message, without_weight(self._schema)))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise self._lost(type(error).__name__) from error

    def _lost(self, why: str) -> StateLost:
        return StateLost(
            f"The stored state {self._trace} is damaged: a piece of {self.bytes} bytes in {self._file} cannot be read"
            f" ({why}).",
            remedy="It is rebuilt from the log or from a new snapshot.",
            trace=self._trace,
            damaged=True,
        )


def _spans(at: Words, sampled: Words | None, firsts: Words) -> tuple[Indexes, Indexes]:
    """For each key, by its lowest place, where its rows begin and end."""
    begins = find(at, sampled, firsts)
    lasts = firsts | LOWER_HALF  # no row lies there: see ``places.HIGHEST_ROW``
    ends = begins + _below(at, begins, lasts)
    # Most keys have one row or none; the end of the others has to be sought as well.
    several = np.flatnonzero((ends > begins) & _below(at, ends, lasts))
    if several.size:
        ends[several] = find(at, sampled, lasts[several])
    return begins, ends


def _below(at: Words, indexes: Indexes, bounds: Words) -> npt.NDArray[np.bool_]:
    """Whether there are rows at these indexes, with lower places than the bounds."""
    return (at[np.minimum(indexes, len(at) - 1)] < bounds) & (indexes < len(at))


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """Sorted rows of one trace, each once.

    Attributes:
        name: Unique in the store.
        blocks: In order, none empty.
        file: Where they are stored; empty while they are in memory.
    """

    name: str
    blocks: Sequence[Held | Stored]
    file: str = ""
    rows: int = field(init=False)
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", sum(block.rows for block in self.blocks))
        object.__setattr__(self, "bytes", sum(block.bytes for block in self.blocks))

    def between(self, low: int, high: int) -> list[pa.RecordBatch]:
        """The rows with places from ``low`` to ``high``, both inclusive, as slices of what is stored."""
        found = []
        for block in self.blocks:
            if block.last < low or block.first > high:
                continue
            batch = block.read()
            at = places_of(batch)
            begin = int(np.searchsorted(at, np.uint64(low), "left")) if block.first < low else 0
            end = int(np.searchsorted(at, np.uint64(high), "right")) if block.last > high else batch.num_rows
            if end > begin:
                found.append(batch.slice(begin, end - begin))
        return found

    def find(self, firsts: Words) -> list[tuple[pa.RecordBatch, npt.NDArray[np.int64]]]:
        """The rows whose key may be among some keys, and for each row which key that is.

        Args:
            firsts: Lowest place of each key, ascending, all different.
        """
        found = []
        for block in self.blocks:
            low = int(np.searchsorted(firsts, np.uint64(block.first) & ~LOWER_HALF, "left"))
            high = int(np.searchsorted(firsts, np.uint64(block.last), "right"))
            if low == high:
                continue
            batch = block.read()
            at = places_of(batch)
            begins, ends = _spans(at, block.sampled, firsts[low:high])
            counts = ends - begins
            hit = np.flatnonzero(counts)
            if not hit.size:
                continue
            begins, counts = begins[hit], counts[hit]
            which, indexes = low + hit, begins
            total = int(counts.sum())
            if total > len(hit):
                shifts = begins - (np.cumsum(counts) - counts)
                which, indexes = np.repeat(which, counts), np.arange(total) + np.repeat(shifts, counts)
            found.append((taken(batch, indexes), which))
        return found
