"""Finds the messages of PostgreSQL's wire protocol in a buffer, without a Python step per message.

A message is a byte for its kind, its length (int32, counting itself, big-endian), then its payload; where one ends the
next begins, so the only sure way is from one to the next. Guessing first is five times as fast: nearly all messages
are CopyData (``d``) whose payload begins the same way, so all places where these bytes stand are taken by comparing
whole buffers. A guess counts only if the message before it ends exactly there, so what is found is
what hopping would find, whatever the rows contain.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.errors import Corrupt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

HEADER_BYTES = 5  # of a message: kind and length
PADDING_BYTES = 64  # that must follow the last byte of a buffer, so that eight bytes can be read anywhere
_COPY_DATA = ord("d")
_BLOCK_BYTES = 1 << 17  # compared at once: two masks of this size and the bytes stay in a core's cache
# Above this mean size of a message, looking at every byte costs more than hopping from one to the next.
_HOP_BYTES = 2048

_read_length = struct.Struct("!i").unpack_from


def words(buffer: Bytes, dtype: str) -> npt.NDArray[Any]:
    """An item of the type beginning at every byte: indexing it with places reads unaligned values, 7 ns each."""
    size = np.dtype(dtype).itemsize
    return np.ndarray(shape=(len(buffer) - size + 1,), dtype=dtype, buffer=buffer, strides=(1,))


def find_messages(buffer: Bytes, first: int, end: int, mark: bytes) -> tuple[Places, int]:
    """The places where complete messages begin, and the place where the first incomplete one does.

    Args:
        buffer: With ``PADDING_BYTES`` after ``end``.
        first: Where a message begins.
        end: Where the received bytes end.
        mark: How the payload of most CopyData messages begins, a byte or two.

    Raises:
        Corrupt: a length that cannot be.
    """
    if end - first < HEADER_BYTES:
        return np.empty(0, np.int64), first
    expected = _length(buffer, first)
    if first + expected > end:
        return np.empty(0, np.int64), first
    if expected > _HOP_BYTES:
        return _hop(buffer, first, end)
    guesses = _guesses(buffer[first:end], mark)
    guesses += first
    following = guesses + 1 + words(buffer, ">i4")[guesses + 1]
    breaks = np.flatnonzero(following[:-1] != guesses[1:])
    if len(guesses) == 0 or len(breaks) * 8 > len(guesses):  # a search per break costs more than several hops
        return _hop(buffer, first, end)
    return _chain(buffer, first, end, guesses, following, breaks)


def message_bytes(buffer: Bytes, at: int) -> int:
    """Bytes of the message that begins there, its header included.

    Raises:
        Corrupt: a length that cannot be.
    """
    return _length(buffer, at)


def _guesses(part: Bytes, mark: bytes) -> Places:
    """Where ``d`` stands, five bytes on the mark, and a length below 16 MiB between them."""
    count = len(part) - HEADER_BYTES - len(mark) + 1
    signs = [(HEADER_BYTES + place, value) for place, value in enumerate(mark)]
    found = []
    kinds, marks = np.empty(_BLOCK_BYTES, np.bool_), np.empty(_BLOCK_BYTES, np.bool_)
    for block in range(0, count, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, count - block)
        if size < _BLOCK_BYTES:
            kinds = np.zeros(-(-size // 64) * 64, np.bool_)
        np.equal(part[block : block + size], _COPY_DATA, out=kinds[:size])
        for place, value in signs:
            np.equal(part[block + place : block + place + size], value, out=marks[:size])
            np.logical_and(kinds[:size], marks[:size], out=kinds[:size])
        found.append(_ones(kinds) + block)
    guesses: Places = np.concatenate(found) if found else np.empty(0, np.int64)
    plausible: Places = guesses[part[guesses + 1] == 0]
    return plausible


def _ones(mask: npt.NDArray[np.bool_]) -> Places:
    """``np.flatnonzero`` of a sparse mask whose size is a multiple of 64, three times as fast: by 64 bits at once."""
    packed = np.packbits(mask, bitorder="little").view("<u8")
    places = np.flatnonzero(packed)
    bits = packed[places]
    found = []
    while len(bits):
        rest = bits & (bits - np.uint64(1))
        lowest = bits ^ rest  # a power of two, so a float holds it and its exponent is its place
        found.append(places * 64 + (np.frexp(lowest.astype(np.float64))[1] - 1))
        more = rest != 0
        places, bits = places[more], rest[more]
    if not found:
        return np.empty(0, np.int64)
    merged: Places = found[0] if len(found) == 1 else np.sort(np.concatenate(found))
    return merged


def _chain(
    buffer: Bytes, first: int, end: int, guesses: Places, following: Places, breaks: Places
) -> tuple[Places, int]:
    """The guesses that follow from each other, and by hand the messages between that no guess was made for."""
    at, found = first, []
    breaks = np.append(breaks, len(guesses) - 1)
    while end - at >= HEADER_BYTES:
        place = int(np.searchsorted(guesses, at))
        if place < len(guesses) and guesses[place] == at:
            last = int(breaks[np.searchsorted(breaks, place)])
            after = int(following[last])
            if after > end or after < guesses[last] + HEADER_BYTES:
                found.append(guesses[place:last])
                at = int(guesses[last])
                _length(buffer, at)
                break
            found.append(guesses[place : last + 1])
        else:
            after = at + _length(buffer, at)
            if after > end:
                break
            found.append(np.array([at], np.int64))
        at = after
    return np.concatenate(found) if found else np.empty(0, np.int64), at


def _hop(buffer: Bytes, first: int, end: int) -> tuple[Places, int]:
    at, found = first, []
    view = buffer.data
    while at + HEADER_BYTES <= end:
        length = _read_length(view, at + 1)[0]
        if length < 4:
            raise _impossible(length)
        if at + 1 + length > end:
            break
        found.append(at)
        at += 1 + length
    return np.array(found, np.int64), at


def _length(buffer: Bytes, at: int) -> int:
    length: int = _read_length(buffer.data, at + 1)[0]
    if length < 4:
        raise _impossible(length)
    return length + 1


def _impossible(length: int) -> Corrupt:
    return Corrupt(
        f"PostgreSQL's stream holds a message of {length} bytes, which cannot be.",
        remedy="Something between raypipe and the server changes what is sent, or the server is not PostgreSQL.",
    )
