"""Takes tuples apart by column: every tuple of a relation has the same columns, so all tuples advance together.

For column j the kind, the length and the first bytes of all tuples are read with one gather of eight bytes each, and
that gives where column j + 1 begins. No tuple is ever looked at alone, and no value is copied until its column is made
into an Arrow array, all at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.errors import Corrupt
from raypipe.sources.postgres.frames import Bytes, Places, words

NULL, UNCHANGED, TEXT, BINARY = b"nutb"

Mask = npt.NDArray[np.bool_]
Kinds = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One column of many rows, where it lies in a buffer.

    Attributes:
        buffer: With at least eight bytes after every cell.
        first: Where each value begins; any place where there is none.
        size: Its bytes; 0 where there is none.
        kind: ``n`` (NULL), ``u`` (unchanged, not sent), ``t`` (text) or ``b`` (binary).
        present: Where there is a value; None if everywhere.
    """

    buffer: Bytes
    first: Places
    size: Places
    kind: Kinds
    present: Mask | None

    def __len__(self) -> int:
        return len(self.first)

    @property
    def format(self) -> int:
        """``t`` or ``b``: a stream sends a type in one of them; ``t`` if there is no value at all."""
        kinds = self.kind if self.present is None else self.kind[self.present]
        return int(kinds[0]) if len(kinds) else TEXT

    def bitmap(self) -> pa.Buffer | None:
        """Arrow's validity bitmap."""
        return None if self.present is None else pa.py_buffer(np.packbits(self.present, bitorder="little"))

    def only(self, keep: Mask) -> Cells:
        """The same cells with NULL where they are not to be kept."""
        present = keep if self.present is None else keep & self.present
        return Cells(
            buffer=self.buffer,
            first=self.first,
            size=np.where(present, self.size, 0),
            kind=np.where(keep, self.kind, np.uint8(NULL)),
            present=present,
        )

    def at(self, places: Places) -> Cells:
        """The cells at some places, in that order."""
        return Cells(
            buffer=self.buffer,
            first=self.first[places],
            size=self.size[places],
            kind=self.kind[places],
            present=None if self.present is None else self.present[places],
        )

    def lead(self) -> Kinds:
        """The first byte of each value; 0 where there is none."""
        lead: Kinds = self.buffer[self.first]
        return lead if self.present is None and self.size.all() else np.where(self.size > 0, lead, np.uint8(0))


def walk(buffer: Bytes, tuples: Places, columns: int) -> tuple[list[Cells], Places]:
    """The cells of TupleData by column, and where each tuple ends.

    Args:
        buffer: That holds them.
        tuples: Where each begins: at its number of columns.
        columns: How many columns each must have.

    Raises:
        Corrupt: a tuple has another number of columns, or ends beyond the buffer.
    """
    try:
        if (words(buffer, ">u2")[tuples] != columns).any():
            raise _broken("has another number of columns than its relation")
        return _walk(buffer, tuples + 2, columns)
    except IndexError:
        raise _broken("is longer than its message") from None


def _walk(buffer: Bytes, cursor: Places, columns: int) -> tuple[list[Cells], Places]:
    heads, found = words(buffer, "<u8"), []
    for _ in range(columns):
        head = heads[cursor].byteswap(inplace=True)
        kind = (head >> np.uint64(56)).astype(np.uint8)
        size = ((head >> np.uint64(24)) & np.uint64(0xFFFFFFFF)).astype(np.int64)
        present = (kind == TEXT) | (kind == BINARY)
        first = cursor + 5
        if present.all():
            found.append(Cells(buffer=buffer, first=first, size=size, kind=kind, present=None))
            cursor = first + size
            continue
        if not (present | (kind == NULL) | (kind == UNCHANGED)).all():
            raise _broken("has a column of an unknown kind")
        size[~present] = 0
        found.append(Cells(buffer=buffer, first=np.where(present, first, 0), size=size, kind=kind, present=present))
        cursor = np.where(present, first + size, cursor + 1)
    return found, cursor


def walk_copied(buffer: Bytes, tuples: Places, columns: int) -> tuple[list[Cells], Places]:
    """The cells of rows of COPY (FORMAT binary) by column, and where each row ends.

    Args:
        buffer: That holds them.
        tuples: Where each begins: at its number of columns.
        columns: How many columns each must have.

    Raises:
        Corrupt: a row has another number of columns, or ends beyond the buffer.
    """
    found = []
    try:
        if (words(buffer, ">u2")[tuples] != columns).any():
            raise _broken("has another number of columns than was asked for")
        lengths, cursor = words(buffer, ">i4"), tuples + 2
        for _ in range(columns):
            size = lengths[cursor].astype(np.int64)
            first = cursor + 4
            if (size < -1).any():
                raise _broken("has a column of a negative length")
            present = size >= 0
            if present.all():
                kind = np.full(len(size), BINARY, np.uint8)
                found.append(Cells(buffer=buffer, first=first, size=size, kind=kind, present=None))
                cursor = first + size
                continue
            size[~present] = 0
            found.append(
                Cells(
                    buffer=buffer,
                    first=np.where(present, first, 0),
                    size=size,
                    kind=np.where(present, np.uint8(BINARY), np.uint8(NULL)),
                    present=present,
                )
            )
            cursor = first + size
    except IndexError:
        raise _broken("is longer than its message") from None
    return found, cursor


def check_ends(cursor: Places, ends: Places) -> None:
    """Every tuple ends where its message does.

    Raises:
        Corrupt: one does not.
    """
    if (cursor != ends).any():
        raise _broken("does not end where its message ends")


def gathered(cells: Cells, kind: pa.DataType) -> pa.Array:
    """The values' bytes as an Arrow array of ``string`` or ``binary``.

    The receive buffer itself becomes an Arrow array whose even elements are the values and whose odd elements are
    whatever lies between, without a copy; taking the even ones is one pass in C++, 11 ns a value.
    """
    count = len(cells)
    wide = len(cells.buffer) > 2**31 - 1
    bounds = np.empty(2 * count + 1, np.int64 if wide else np.int32)
    bounds[0:-1:2] = cells.first
    np.add(cells.first, cells.size, out=bounds[1::2], casting="unsafe")
    bounds[-1] = len(cells.buffer)
    large = pa.large_binary() if wide else pa.binary()
    every = pa.Array.from_buffers(large, 2 * count, [None, pa.py_buffer(bounds), pa.py_buffer(cells.buffer)])
    taken = every.take(pa.array(np.arange(0, 2 * count, 2)))
    if wide:
        taken = taken.cast(pa.binary())
    return pa.Array.from_buffers(kind, count, [cells.bitmap(), *taken.buffers()[1:]])


def _broken(how: str) -> Corrupt:
    return Corrupt(
        f"A row of PostgreSQL's stream {how}.",
        remedy="Look for a proxy between raypipe and the server, and report this with the server's version.",
    )
