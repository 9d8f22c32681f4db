"""From PostgreSQL's binary output to Arrow, a column at once: what ``from_text`` makes of the same value, bit by bit.

Formats: the ``_send`` functions of src/backend/utils/adt. Integers are big-endian.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.errors import Corrupt
from raypipe.sources.postgres.columns import Cells, Mask, gathered
from raypipe.sources.postgres.frames import words
from raypipe.sources.postgres.moments import POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_US
from raypipe.sources.postgres.values import Convert, Values, fixed, found, valid_utf8

_DAY_US = 86_400_000_000
_INFINITE_DATE = (-(2**31), 2**31 - 1)
_INFINITE_TIME = (-(2**63), 2**63 - 1)
_JSONB_VERSION = 1
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_UUID_PLACES = np.array([place for place in range(36) if place not in (8, 13, 18, 23)])
_NUMERIC_POSITIVE, _NUMERIC_NEGATIVE = 0x0000, 0x4000
_NUMERIC_HEADER_BYTES = 8
# An int64 holds so many decimal digits, whatever they are.
_INT64_DIGITS = 18
# Keeps the first digits, none to four, of a word of four.
_FIRST_DIGITS = np.array([0, -(1 << 48), -(1 << 32), -(1 << 16), -1], np.int64)


def text(cells: Cells) -> Values:
    """As it is."""
    return found(cells, valid_utf8(gathered(cells, pa.string())))


def binary(cells: Cells) -> Values:
    """As it is."""
    return Values(array=gathered(cells, pa.binary()))


def jsonb(cells: Cells) -> Values:
    """A version, then text."""
    if (cells.lead()[cells.size > 0] != _JSONB_VERSION).any():
        raise Corrupt("PostgreSQL sends jsonb in a version that raypipe does not know.")
    return text(cells.without(1))


def boolean(cells: Cells) -> Values:
    """One byte."""
    truth = np.packbits(cells.buffer[cells.first] != 0, bitorder="little")
    return Values(array=pa.Array.from_buffers(pa.bool_(), len(cells), [cells.bitmap(), pa.py_buffer(truth)]))


def number(sent: str, kind: pa.DataType) -> Convert:
    """Integers; ``sent`` is their NumPy type on the wire."""
    native = kind.to_pandas_dtype()
    return lambda cells: fixed(cells, _read(cells, sent).astype(native), kind)


def floating(sent: str, kind: pa.DataType) -> Convert:
    """Floats. Every NaN becomes the one that its text becomes."""

    def convert(cells: Cells) -> Values:
        numbers = _read(cells, sent).astype(kind.to_pandas_dtype())
        numbers[np.isnan(numbers)] = np.nan
        return fixed(cells, numbers, kind)

    return convert


def date(cells: Cells) -> Values:
    """Days since 2000."""
    days = _read(cells, ">i4").astype(np.int64)
    fits = (days != _INFINITE_DATE[0]) & (days != _INFINITE_DATE[1])
    return fixed(cells, (days + POSTGRES_EPOCH_DAYS).astype(np.int32), pa.date32(), fits)


def time(cells: Cells) -> Values:
    """Microseconds since midnight."""
    us = _read(cells, ">i8").astype(np.int64)
    return fixed(cells, us, pa.time64("us"), us < _DAY_US)


def timestamp(kind: pa.DataType) -> Convert:
    """Microseconds since 2000."""

    def convert(cells: Cells) -> Values:
        us = _read(cells, ">i8").astype(np.int64)
        # Also what the shift to 1970 would carry beyond 64 bits. A whole day is left free, as text is read by days.
        last = (2**63 - 1) // _DAY_US * _DAY_US - POSTGRES_EPOCH_US
        fits = (us != _INFINITE_TIME[0]) & (us < last)
        return fixed(cells, np.where(fits, us, 0) + POSTGRES_EPOCH_US, kind, fits)

    return convert


def uuid(cells: Cells) -> Values:
    """Sixteen bytes, as the text of 36 characters."""
    count = len(cells)
    sixteen = words(cells.buffer, "V16")[cells.first].view(np.uint8).reshape(count, 16)
    letters = np.full((count, 36), ord("-"), np.uint8)
    letters[:, _UUID_PLACES[0::2]] = _HEX[sixteen >> 4]
    letters[:, _UUID_PLACES[1::2]] = _HEX[sixteen & 15]
    if cells.present is None:
        sizes = np.full(count, 36, np.int32)
    else:
        letters, sizes = letters[cells.present], np.where(cells.present, 36, 0).astype(np.int32)
    bounds = np.zeros(count + 1, np.int32)
    np.cumsum(sizes, out=bounds[1:])
    buffers = [cells.bitmap(), pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(letters))]
    return Values(array=pa.Array.from_buffers(pa.string(), count, buffers))


def decimal(kind: pa.DataType) -> Convert:
    """Digits in base 10,000 behind a header of four int16: how many, weight of the first, sign, decimal places."""
    return lambda cells: _decimals(cells, kind)


def _decimals(cells: Cells, kind: pa.DataType) -> Values:
    eights = words(cells.buffer, "<i8")
    head = eights[cells.first].byteswap(inplace=True)
    count, weight, sign = head >> 48 & 0xFFFF, head << 16 >> 48, head >> 16 & 0xFFFF
    finite: Mask = (sign == _NUMERIC_POSITIVE) | (sign == _NUMERIC_NEGATIVE)
    if cells.present is not None:
        finite = finite | ~cells.present
        count = np.where(cells.present, count, 0)
    if not finite.all():
        count = np.where(finite, count, 0)
    most = int(count.max()) if len(count) else 0
    if kind.scale < 0 or kind.precision > _INT64_DIGITS:
        return _wide_decimals(cells, kind, count, weight, sign, finite, most)
    unscaled = np.zeros(len(cells), np.int64)
    parts, beyond = -(-kind.scale // 4), -kind.scale % 4
    powers = _powers(kind.scale)
    for place in range(most):
        if place % 4 == 0:  # four digits are read at once; what lies behind a value's last one counts nothing
            four = eights[cells.first + _NUMERIC_HEADER_BYTES + 2 * place].byteswap(inplace=True)
            four &= _FIRST_DIGITS.take(np.clip(count - place, 0, 4))
        digit = four >> 48 - 16 * (place % 4) & 0xFFFF
        number = np.clip(weight + (parts - place + 1), 0, len(powers) - 1)
        amount = digit * powers.take(number)
        if beyond:  # the scale ends within the last digit, the rest of which the column's type has rounded to zeros
            amount = np.where(number == 1, digit // 10**beyond, amount)
        unscaled += amount
    negative = sign == _NUMERIC_NEGATIVE
    if negative.any():
        np.negative(unscaled, out=unscaled, where=negative)
    wide = np.empty((len(cells), kind.bit_width // 64), np.int64)
    wide[:, 0] = unscaled
    wide[:, 1:] = (unscaled >> 63)[:, None]
    return fixed(cells, wide, kind, finite)


def _wide_decimals(
    cells: Cells,
    kind: pa.DataType,
    count: npt.NDArray[np.int64],
    weight: npt.NDArray[np.int64],
    sign: npt.NDArray[Any],
    finite: Mask,
    most: int,
) -> Values:
    """By way of text: a matrix of the digits of all values, aligned at the point, that Arrow parses."""
    left, right = -(-(kind.precision - kind.scale) // 4), -(-max(kind.scale, 0) // 4)
    groups = np.zeros((len(cells), left + right), np.int64)
    rows = np.arange(len(cells))
    for place in range(most):
        column = left - 1 - (weight - place)
        has = (count > place) & (column >= 0) & (column < left + right)
        digit = words(cells.buffer, ">i2")[np.where(has, cells.first + _NUMERIC_HEADER_BYTES + 2 * place, 0)]
        groups[rows[has], column[has]] = digit[has]
    digits = np.empty((len(cells), left + right, 4), np.uint8)
    for place, power in enumerate((1000, 100, 10, 1)):
        digits[:, :, place] = groups // power % 10 + ord("0")
    flat = digits.reshape(len(cells), 4 * (left + right))[:, : 4 * left + kind.scale]
    letters = np.empty((len(cells), flat.shape[1] + 2), np.uint8)
    letters[:, 0] = np.where(sign == _NUMERIC_NEGATIVE, ord("-"), ord("+"))
    letters[:, 1 : 4 * left + 1] = flat[:, : 4 * left]
    letters[:, 4 * left + 1] = ord(".")
    letters[:, 4 * left + 2 :] = flat[:, 4 * left :]
    bounds = np.arange(len(cells) + 1, dtype=np.int32) * letters.shape[1]
    texts = pa.Array.from_buffers(pa.string(), len(cells), [None, pa.py_buffer(bounds), pa.py_buffer(letters)])
    present = finite if cells.present is None else finite & cells.present
    array = texts.cast(kind)
    buffers = [pa.py_buffer(np.packbits(present, bitorder="little")), array.buffers()[1]]
    return found(cells, pa.Array.from_buffers(kind, len(cells), buffers))


@lru_cache(maxsize=32)
def _powers(scale: int) -> npt.NDArray[np.int64]:
    """What each digit counts, from the last one that the scale reaches on; first, what one behind that counts."""
    exponents = range(4 - -scale % 4, _INT64_DIGITS + 1, 4)
    return np.array([0, 1, *(10**exponent for exponent in exponents)], np.int64)


def _read(cells: Cells, sent: str) -> npt.NDArray[Any]:
    return words(cells.buffer, sent)[cells.first]
