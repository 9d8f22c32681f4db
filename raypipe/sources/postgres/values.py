"""What conversions from PostgreSQL's formats to Arrow share: a column that comes out, and which values did not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.sources.postgres.columns import Cells, Mask


@dataclass(frozen=True, kw_only=True)
class Values:
    """A column as it goes on.

    Attributes:
        array: Of the kind's type; NULL where a value did not fit.
        fits: False where one did not; None if all did.
    """

    array: pa.Array
    fits: Mask | None = None


Convert = Callable[[Cells], Values]


def fixed(cells: Cells, numbers: npt.NDArray[Any], kind: pa.DataType, fits: Mask | None = None) -> Values:
    """Numbers of the kind's own layout, one for each cell, as a column; zero where there is no value."""
    present = cells.present
    if fits is not None:
        if present is not None:
            fits = fits | ~present
        if fits.all():
            fits = None
        else:
            present = fits if present is None else fits & present
    if present is None:
        return Values(array=pa.Array.from_buffers(kind, len(cells), [None, pa.py_buffer(numbers)]), fits=fits)
    numbers = np.ascontiguousarray(numbers)
    numbers[~present] = 0
    bitmap = pa.py_buffer(np.packbits(present, bitorder="little"))
    return Values(array=pa.Array.from_buffers(kind, len(cells), [bitmap, pa.py_buffer(numbers)]), fits=fits)


def found(cells: Cells, array: pa.Array) -> Values:
    """A value fits if it was found, or was none to begin with."""
    nulls = 0 if cells.present is None else len(cells) - int(cells.present.sum())
    if array.null_count == nulls:
        return Values(array=array)
    fits = mask(pc.is_valid(array))
    return Values(array=array, fits=fits if cells.present is None else fits | ~cells.present)


def mask(booleans: pa.Array) -> Mask:
    """Booleans in NumPy, NULL as False."""
    return booleans.fill_null(False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def where(array: pa.Array, keep: Mask) -> pa.Array:
    """The array with NULL wherever it is not to be kept."""
    return array if keep.all() else pc.if_else(pa.array(keep), array, pa.scalar(None, array.type))


def halving(array: pa.Array, kind: pa.DataType, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Converts all at once, and where that fails halves the array until the values that fail stand alone, as NULL."""
    try:
        return convert(array)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, kind)
        middle = len(array) // 2
        return pa.concat_arrays(
            [halving(array.slice(0, middle), kind, convert), halving(array.slice(middle), kind, convert)]
        )


def parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text read as a type, NULL where Arrow's parser refuses it."""
    return halving(texts, kind, lambda part: part.cast(kind))


def valid_utf8(texts: pa.Array) -> pa.Array:
    """Text with NULL wherever its bytes are no UTF-8, which a database in SQL_ASCII does not look at."""

    def validated(part: pa.Array) -> pa.Array:
        part.validate(full=True)
        return part

    return halving(texts, pa.string(), validated)
