"""From PostgreSQL's text output to Arrow, a column at once.

The session settings are those that ``types`` names: dates in ISO order, time zone UTC, floats by their shortest text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.sources.postgres.columns import Cells, Mask, gathered
from raypipe.sources.postgres.moments import moments_of_unusual_text
from raypipe.sources.postgres.values import Convert, Values, fixed, found, mask, parsed, valid_utf8, where

_MINUS = ord("-")
_TIME_DAY = "1970-01-01 "
_HEX = np.zeros(256, np.uint8)
_HEX[list(b"0123456789abcdef")] = np.arange(16)
_DATE_BYTES = len("2026-11-23")
_SECOND_BYTES = len("2026-11-23 12:34:56")


def text(cells: Cells) -> Values:
    """As it is."""
    return found(cells, valid_utf8(gathered(cells, pa.string())))


def boolean(cells: Cells) -> Values:
    """``t`` or ``f``."""
    truth = np.packbits(cells.lead() == ord("t"), bitorder="little")
    return Values(array=pa.Array.from_buffers(pa.bool_(), len(cells), [cells.bitmap(), pa.py_buffer(truth)]))


def number(kind: pa.DataType) -> Convert:
    """Integers, which always fit their type."""
    return lambda cells: Values(array=gathered(cells, pa.string()).cast(kind))


def floating(kind: pa.DataType) -> Convert:
    """Floats by their shortest text, ``NaN``, ``Infinity`` and ``-Infinity`` among them."""
    return lambda cells: Values(array=gathered(cells, pa.string()).cast(kind))


def decimal(kind: pa.DataType) -> Convert:
    """Digits; ``NaN`` and infinities, which a decimal cannot be, do not fit."""

    def convert(cells: Cells) -> Values:
        try:
            return Values(array=gathered(cells, pa.string()).cast(kind))
        except pa.ArrowInvalid:
            return found(cells, parsed(gathered(cells.only(_starts_with_digit(cells)), pa.string()), kind))

    return convert


def binary(cells: Cells) -> Values:
    r"""``\x`` and hexadecimal digits."""
    digits = cells.without(2)
    array = gathered(digits, pa.binary())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int32)[: len(cells) + 1]
    nibbles = _HEX[np.frombuffer(data, np.uint8)[: bounds[-1]]].reshape(-1, 2)
    packed = (nibbles[:, 0] << 4) | nibbles[:, 1]
    halved = pa.py_buffer(bounds // 2)
    return Values(array=pa.Array.from_buffers(pa.binary(), len(cells), [cells.bitmap(), halved, pa.py_buffer(packed)]))


def date(cells: Cells) -> Values:
    """``2026-11-23``, longer years, ``BC``; infinities do not fit."""
    return _moment(cells, lambda them: (them.size == _DATE_BYTES) & _starts_with_digit(them), pa.date32())


def timestamp(cells: Cells) -> Values:
    """``2026-11-23 12:34:56.123456``, longer years, ``BC``; infinities do not fit."""
    return _moment(cells, partial(_usual_second, zone_bytes=0), pa.timestamp("us"))


def timestamptz(cells: Cells) -> Values:
    """The same with ``+00`` at the end, as the session's time zone is UTC."""
    return _moment(cells, partial(_usual_second, zone_bytes=3), pa.timestamp("us", tz="UTC"))


def time(cells: Cells) -> Values:
    """``12:34:56.123456``; 24:00:00, which Arrow's times do not reach, does not fit."""
    texts = gathered(cells, pa.string())
    texts = where(texts, ~mask(pc.starts_with(texts, "24")))
    days = pa.scalar(_TIME_DAY)
    return found(cells, pc.binary_join_element_wise(days, texts, "").cast(pa.timestamp("us")).cast(pa.time64("us")))


def _usual_second(cells: Cells, zone_bytes: int) -> Mask:
    """Which moments have a year of four digits after Christ: their length and the place of the blank tell."""
    blanks = cells.buffer[cells.first + _DATE_BYTES] == ord(" ")
    ends = cells.buffer[np.maximum(cells.first + cells.size - 1, 0)] != ord("C")
    usual: Mask = blanks & ends & (cells.size >= _SECOND_BYTES + zone_bytes)
    return usual


def _moment(cells: Cells, is_usual: Callable[[Cells], Mask], kind: pa.DataType) -> Values:
    try:  # Arrow's parser takes the usual ones and refuses all others
        return Values(array=gathered(cells, pa.string()).cast(kind))
    except pa.ArrowInvalid:
        usual = is_usual(cells)
    if cells.present is not None:
        usual = usual | ~cells.present
    array = gathered(cells.only(usual), pa.string()).cast(kind)
    places = np.flatnonzero(~usual)
    numbers, fits = moments_of_unusual_text(gathered(cells.at(places), pa.string()), kind)
    width = np.int32 if pa.types.is_date32(kind) else np.int64
    every = np.frombuffer(array.buffers()[1], width)[: len(cells)].copy()
    every[places] = numbers
    all_fit = np.ones(len(cells), np.bool_)
    all_fit[places] = fits
    return fixed(cells, every, kind, all_fit)


def _starts_with_digit(cells: Cells) -> Mask:
    """Neither NaN nor infinity."""
    lead = cells.lead()
    second = np.where(lead == _MINUS, cells.buffer[cells.first + 1], lead)
    finite: Mask = (second <= ord("9")) | (lead == 0)
    return finite
