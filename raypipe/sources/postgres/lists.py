"""Arrays from their text: all arrays of a column are taken apart together, byte masks instead of a parser.

The text is ``{1,NULL,"a \\"b\\" c",{…}}``; see https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.sources.postgres.columns import TEXT, Cells, Mask, gathered
from raypipe.sources.postgres.frames import PADDING_BYTES, Bytes, Places
from raypipe.sources.postgres.values import Convert, Values

_OPEN, _CLOSE, _COMMA, _QUOTE, _BACKSLASH, _BOUNDS = b'{},"\\['
_NULL_TEXT = np.frombuffer(b"NULL", np.uint8)
_EMPTY_BYTES = len("{}")


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """All arrays of a column, one after the other, escapes resolved.

    Attributes:
        data: The bytes, padded.
        bounds: Where each array begins, and where the last ends.
        marks: Places of the braces and commas that are not quoted.
        depth: Braces open after each mark.
    """

    data: Bytes
    bounds: Places
    marks: Places
    depth: Places


def list_from_text(element: Convert, dimensions: int) -> Convert:
    """Arrays with a number of dimensions, or empty, as lists; others do not fit.

    Args:
        element: Converts the elements.
        dimensions: From 1.
    """

    def convert(cells: Cells) -> Values:
        fits = cells.buffer[cells.first] != _BOUNDS  # lower bounds other than 1 are written before the array
        if cells.present is not None:
            fits = fits | ~cells.present
        texts = _texts(cells if fits.all() else cells.only(fits))
        fits &= _dimensions_fit(texts, dimensions)
        if not fits.all():
            texts = _texts(cells.only(fits))
        items, starts = _elements(texts, dimensions)
        values = element(items)
        array = values.array
        for level in range(dimensions, 0, -1):
            # What opens a list of this level: its own brace, or for the outermost the beginning of the text.
            opened = texts.marks[(texts.data[texts.marks] == _OPEN) & (texts.depth == level)]
            inner = level > 1
            begins = opened if inner else texts.bounds[:-1]
            offsets = np.append(np.searchsorted(starts, begins), len(starts)).astype(np.int32)
            present = None if inner or (fits.all() and cells.present is None) else _present(cells, fits)
            bitmap = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
            array = pa.Array.from_buffers(
                pa.list_(array.type), len(begins), [bitmap, pa.py_buffer(offsets)], children=[array]
            )
            starts = opened
        if values.fits is not None:
            misfits = items.first[~values.fits]
            fits[np.searchsorted(texts.bounds, misfits, side="right") - 1] = False
            return Values(array=convert(cells.only(fits)).array, fits=fits)
        return Values(array=array, fits=None if fits.all() else fits)

    return convert


def _present(cells: Cells, fits: Mask) -> Mask:
    return fits if cells.present is None else fits & cells.present


def _texts(cells: Cells) -> _Texts:
    _, offsets, data = gathered(cells, pa.binary()).buffers()
    bounds = np.frombuffer(offsets, np.int32)[: len(cells) + 1].astype(np.int64)
    taken = np.frombuffer(data, np.uint8)[: bounds[-1]] if data is not None else np.empty(0, np.uint8)
    escaped = np.zeros(len(taken), np.bool_)
    backslashes = taken == _BACKSLASH
    if backslashes.any():
        places = np.arange(len(taken))
        # In a run of backslashes every other one escapes what follows it.
        before_run = np.maximum.accumulate(np.where(backslashes, -1, places))
        escapes = backslashes & ((places - before_run) % 2 == 1)
        escaped[1:] = escapes[:-1]
        keep = ~escapes
        kept = np.concatenate([[0], np.cumsum(keep)])
        taken, escaped, bounds = taken[keep], escaped[keep], kept[bounds]
    quotes = (taken == _QUOTE) & ~escaped
    outside = np.cumsum(quotes) % 2 == 0
    opens, closes = (taken == _OPEN) & outside, (taken == _CLOSE) & outside
    marks = np.flatnonzero(opens | closes | ((taken == _COMMA) & outside))
    steps = opens[marks].astype(np.int64) - closes[marks]
    padded = np.concatenate([taken, np.zeros(PADDING_BYTES, np.uint8)])
    return _Texts(data=padded, bounds=bounds, marks=marks, depth=np.cumsum(steps))


def _dimensions_fit(texts: _Texts, dimensions: int) -> Mask:
    """Which arrays have that many dimensions or are empty or not there."""
    sizes = np.diff(texts.bounds)
    deepest = np.zeros(len(sizes), np.int64)
    first = np.searchsorted(texts.marks, texts.bounds[:-1])
    held = np.flatnonzero(sizes > 0)
    if len(held):
        deepest[held] = np.maximum.reduceat(texts.depth, first[held])
    fits: Mask = (sizes <= _EMPTY_BYTES) | (deepest == dimensions)
    return fits


def _elements(texts: _Texts, dimensions: int) -> tuple[Cells, Places]:
    """The elements as cells, and the place of the mark before each."""
    data, marks = texts.data, texts.marks
    begins = (texts.depth[:-1] == dimensions) & (data[marks[:-1]] != _CLOSE)
    before, after = marks[:-1][begins], marks[1:][begins]
    given = after - before > 1  # nothing between is an empty array: an empty text is quoted
    before, after = before[given], after[given]
    first, size = before + 1, after - before - 1
    quoted = data[first] == _QUOTE
    unset = ~quoted & (size == len(_NULL_TEXT))
    for place, letter in enumerate(_NULL_TEXT.tolist()):
        unset &= data[first + place] == letter
    first, size = first + quoted, size - 2 * quoted
    return Cells.of(data, first, size, TEXT, ~unset if unset.any() else None), before
