"""Takes tuples apart by column: every tuple of a relation has the same columns, so all tuples advance together.

For column j the kind and the length of all tuples are read with one gather of eight bytes each, and
that gives where column j + 1 begins. No tuple is ever looked at alone, and no value is copied until its column is made
into an Arrow array, all at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.errors import Corrupt
from raypipe.sources.postgres.frames import Bytes, Places, words

NULL, UNCHANGED, TEXT, BINARY = range(4)

# A cell is one number, so that moving cells is moving one array: the place of its first byte, what it is, its size.
# A buffer holds less than 2 GiB and a value less than 1 GiB; NULL is 0.
_FIRST_BITS, _KIND_BITS = 32, 30
_SIZE = (1 << _KIND_BITS) - 1
_LETTERS = np.full(256, 255, np.uint8)
_LETTERS[list(b"nutb")] = [NULL, UNCHANGED, TEXT, BINARY]
_TEXT_LETTER = ord("t")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """One column of many rows, where it lies in a buffer.

    Attributes:
        buffer: With at least eight bytes after every cell.
        code: Of each cell.
    """

    buffer: Bytes
    code: Places

    @staticmethod
    def of(buffer: Bytes, first: Places, size: Places, kind: int, present: Mask | None = None) -> Cells:
        """Cells of one kind, NULL where they are not present."""
        code = first << _FIRST_BITS | size | kind << _KIND_BITS
        return Cells(buffer, code if present is None else np.where(present, code, 0))

    @staticmethod
    def everywhere(buffer: Bytes, first: Places, size: Places | int, kind: int) -> Cells:
        """Cells of one kind that all hold a value. Where they begin is known already, and not found again."""
        cells = Cells(buffer, first << _FIRST_BITS | size | kind << _KIND_BITS)
        vars(cells).update(first=first, present=None)
        if not isinstance(size, int):
            vars(cells)["size"] = size
        return cells

    def __len__(self) -> int:
        return len(self.code)

    @cached_property
    def first(self) -> Places:
        """Where each value begins; 0 where there is none."""
        return self.code >> _FIRST_BITS

    @cached_property
    def size(self) -> Places:
        """Bytes of each value; 0 where there is none."""
        return self.code & _SIZE

    @cached_property
    def present(self) -> Mask | None:
        """Where there is a value; None if everywhere."""
        present: Mask = self.code & 1 << _KIND_BITS + 1 != 0
        return None if present.all() else present

    def is_kind(self, kind: int) -> Mask:
        """Which cells are of a kind."""
        mask: Mask = self.code >> _KIND_BITS & 3 == kind
        return mask

    @property
    def format(self) -> int:
        """``TEXT`` or ``BINARY``: a stream sends a type in one of them; ``TEXT`` if there is no value at all."""
        if not len(self):
            return TEXT
        place = 0 if self.present is None else int(self.present.argmax())
        return max(int(self.code[place]) >> _KIND_BITS & 3, TEXT)

    def bitmap(self) -> pa.Buffer | None:
        """Arrow's validity bitmap."""
        return None if self.present is None else pa.py_buffer(np.packbits(self.present, bitorder="little"))

    def only(self, keep: Mask) -> Cells:
        """The same cells with NULL where they are not to be kept."""
        return Cells(self.buffer, np.where(keep, self.code, 0))

    def at(self, places: Places) -> Cells:
        """The cells at some places, in that order."""
        return Cells(self.buffer, self.code[places])

    def without(self, front: int, back: int = 0) -> Cells:
        """The values without some bytes in front and at the back; one that has no more than these is left empty."""
        return Cells.of(
            self.buffer, self.first + front, np.maximum(self.size - front - back, 0), self.format, self.present
        )

    def lead(self) -> npt.NDArray[np.uint8]:
        """The first byte of each value; 0 where there is none."""
        return np.where(self.size > 0, self.buffer[self.first], np.uint8(0))


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
    heads, found = words(buffer, "<i8"), []
    for _ in range(columns):
        head = heads[cursor].byteswap(inplace=True)
        letter = head >> 56
        size = head >> 24 & 0xFFFFFFFF
        cursor = cursor + 5
        if (letter == _TEXT_LETTER).all():
            found.append(Cells.everywhere(buffer, cursor, size, TEXT))
            cursor = cursor + size
            continue
        kind = _LETTERS[letter & 0xFF].astype(np.int64)
        if (kind > BINARY).any():
            raise _broken("has a column of an unknown kind")
        present = kind >= TEXT
        code = cursor << _FIRST_BITS | size
        found.append(Cells(buffer, np.where(present, code, 0) | kind << _KIND_BITS))
        cursor += np.where(present, size, -4)
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
        lengths, cursor = words(buffer, "<i4"), tuples + 2
        for _ in range(columns):
            sizes = lengths[cursor].byteswap(inplace=True)
            first = cursor + 4
            least, most = (int(sizes.min()), int(sizes.max())) if len(sizes) else (0, 0)
            if least < -1:
                raise _broken("has a column of a negative length")
            if most > _SIZE:
                raise _broken("is longer than its message")
            if least == most and least >= 0:  # numbers and moments: nothing is left to look at by row
                found.append(Cells.everywhere(buffer, first, least, BINARY))
                cursor = first + least
                continue
            size = sizes.astype(np.int64)
            if least >= 0:
                found.append(Cells.everywhere(buffer, first, size, BINARY))
            else:
                present = size >= 0
                size[~present] = 0
                found.append(Cells.of(buffer, first, size, BINARY, present))
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
    bounds = np.empty(2 * count + 1, np.int32)
    bounds[0:-1:2] = cells.first
    np.add(cells.first, cells.size, out=bounds[1::2], casting="unsafe")
    bounds[-1] = len(cells.buffer)
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(cells.buffer)]
    taken = pa.Array.from_buffers(pa.binary(), 2 * count, buffers).take(_even(count))
    return pa.Array.from_buffers(kind, count, [cells.bitmap(), *taken.buffers()[1:]])


def _even(count: int) -> pa.Array:
    return _even_below(1 << max(count - 1, 1).bit_length()).slice(0, count)


@lru_cache(maxsize=32)
def _even_below(count: int) -> pa.Array:
    return pa.array(np.arange(0, 2 * count, 2, dtype=np.uint32))


def _broken(how: str) -> Corrupt:
    return Corrupt(
        f"A row of PostgreSQL's stream {how}.",
        remedy="Look for a proxy between raypipe and the server, and report this with the server's version.",
    )
