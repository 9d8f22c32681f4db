"""SQLite's declared types and what becomes of them: the one place, with the rule for values that do not fit.

A declared type is a promise that SQLite does not keep: any column may hold any value. Carried is what fits the table
below. **A row with a value that does not fit is parked: the pipeline treats the row as absent**, and the row itself,
whole and lossless, with column and reason, goes into the instance's table ``_raypipe_quarantine`` until it is mended
or deleted. Nothing is coerced, and nothing is fatal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

_EXACT = 2**53  # doubles hold every integer up to here


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One column of a chunk as the driver read it: the type it inferred is a hint, ``only`` reads exactly.

    Attributes:
        values: As inferred: int64 means all integers, double all numbers, string no blobs, binary anything.
        holds_only: Whether every value is NULL or of one storage class (``integer``, ``real``, ``text``, ``blob``).
        only: The values of one storage class, NULL for all others; when there are none, of any type.
    """

    values: pa.Array
    holds_only: Callable[[str], bool]
    only: Callable[[str], pa.Array]


@dataclass(frozen=True, kw_only=True)
class Values:
    """A column as it goes on.

    Attributes:
        array: Of the kind's type; NULL where a value did not fit.
        fits: False where one did not; None if all did.
    """

    array: pa.Array
    fits: Mask | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a declared type becomes.

    Attributes:
        type: In Arrow.
        carried: Values that fit, in words for the documentation.
        read: SQL that reads a column, ``{}`` standing for it.
        convert: From what was read.
    """

    type: pa.DataType
    carried: str
    read: str
    convert: Callable[[Cells], Values]


def kind_of(declared: str) -> Kind:
    """The kind of a column declared so; every text is some kind, as in SQLite."""
    return _kind_of(" ".join(declared.upper().split()))


@lru_cache(maxsize=1024)
def _kind_of(declared: str) -> Kind:
    name, _, arguments = declared.partition("(")
    name = name.strip()
    if name in ("DECIMAL", "NUMERIC", "DEC", "NUMBER"):
        return _decimal_kind(arguments)
    if name in _BY_NAME:
        return _BY_NAME[name]
    # SQLite's own rules for any other text (https://www.sqlite.org/datatype3.html#determination_of_column_affinity).
    for part, kind in _BY_AFFINITY:
        if part in declared:
            return kind
    return _LITERAL


def _decimal_kind(arguments: str) -> Kind:
    match = re.fullmatch(r"\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", arguments)
    if match is None:
        return _NUMERIC
    precision, scale = int(match[1]), int(match[2] or 0)
    if not (1 <= precision <= 38 and scale <= precision):
        return _NUMERIC
    kind = pa.decimal128(precision, scale)
    return Kind(
        type=kind,
        carried="numbers, and text that is one, with no more digits than declared",
        read=_COLUMN,
        convert=lambda cells: _to_decimal(cells, kind),
    )


# Numbers


def _to_int64(cells: Cells) -> Values:
    if pa.types.is_int64(cells.values.type):
        return Values(array=cells.values)
    return _found(cells, cells.only("integer").cast(pa.int64()))


def _to_bool(cells: Cells) -> Values:
    integers = _to_int64(cells).array
    truth = _where(integers, _mask(pc.is_in(integers, value_set=pa.array([0, 1]))))
    return _found(cells, truth.cast(pa.bool_()))


def _to_float64(cells: Cells) -> Values:
    if pa.types.is_float64(cells.values.type):  # REAL affinity leaves no integer among them
        return Values(array=cells.values)
    return _found(cells, cells.only("real").cast(pa.float64()))


def _to_exact_float64(cells: Cells) -> Values:
    integers = cells.only("integer").cast(pa.int64())
    exact = _mask(pc.and_(pc.less_equal(integers, _EXACT), pc.greater_equal(integers, -_EXACT)))
    return _found(cells, pc.coalesce(_where(integers, exact).cast(pa.float64()), cells.only("real").cast(pa.float64())))


def _to_decimal(cells: Cells, kind: pa.Decimal128Type) -> Values:
    if pa.types.is_int64(cells.values.type):
        return _found(cells, _decimal_of_integers(cells.values, kind))
    if pa.types.is_float64(cells.values.type) and _all_below(cells.values, _EXACT):  # any integers among them are exact
        return _found(cells, _decimal_of_reals(cells.values, kind))
    integers, reals, texts = cells.only("integer"), cells.only("real"), cells.only("text")
    return _found(
        cells,
        pc.coalesce(
            _decimal_of_integers(integers.cast(pa.int64()), kind),
            _decimal_of_reals(reals.cast(pa.float64()), kind),
            _parsed(texts.cast(pa.string()), kind),
        ),
    )


def _decimal_of_integers(integers: pa.Array, kind: pa.Decimal128Type) -> pa.Array:
    values = integers.fill_null(0).to_numpy(zero_copy_only=False)
    largest = (10 ** min(kind.precision, 18) - 1) // 10**kind.scale  # of which the unscaled number is an int64
    fits = (values <= largest) & (values >= -largest)
    unscaled = np.where(fits, values, 0) * 10 ** min(kind.scale, 18)
    return _decimals(integers, unscaled, fits, kind)


def _decimal_of_reals(reals: pa.Array, kind: pa.Decimal128Type) -> pa.Array:
    """Decimals of those doubles whose shortest decimal has no more digits than the kind."""
    values = reals.fill_null(0.0).to_numpy(zero_copy_only=False)
    factor = 10.0**kind.scale
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(values * factor)
        # Below 2**51 the product is off by less than a half, and a quotient of exact numbers is rounded once: so the
        # comparison says precisely whether the double is the one nearest to a decimal of this scale.
        fits = (np.abs(scaled) < min(2.0**51, 10.0**kind.precision)) & (scaled / factor == values)
    return _decimals(reals, np.where(fits, scaled, 0.0).astype(np.int64), fits, kind)


def _decimals(numbers: pa.Array, unscaled: npt.NDArray[np.int64], fits: Mask, kind: pa.Decimal128Type) -> pa.Array:
    words = np.empty((len(unscaled), 2), np.int64)  # 128 bits, little-endian: the number, then its sign
    words[:, 0] = unscaled
    words[:, 1] = unscaled >> 63
    present = _mask(pc.is_valid(numbers))
    bitmap = pa.py_buffer(np.packbits(fits & present, bitorder="little"))
    found = pa.Array.from_buffers(kind, len(unscaled), [bitmap, pa.py_buffer(words)])
    rest = present & ~fits
    if not rest.any():
        return found
    # Beyond 64 bits, or too many digits: the parser decides, on the shortest text of the number.
    return pc.coalesce(found, _parsed(_where(numbers, rest).cast(pa.string()), kind))


# Text


def _to_text(cells: Cells) -> Values:
    if pa.types.is_string(cells.values.type):  # TEXT affinity leaves no number among them
        return _found(cells, _valid_utf8(cells.values))
    return _found(cells, _valid_utf8(cells.only("text").cast(pa.string())))


def _to_text_only(cells: Cells) -> Values:
    if pa.types.is_string(cells.values.type) and cells.holds_only("text"):
        return _found(cells, _valid_utf8(cells.values))
    return _found(cells, _valid_utf8(cells.only("text").cast(pa.string())))


def _to_date(cells: Cells) -> Values:
    texts = _to_text_only(cells).array
    return _found(cells, _parsed(_where(texts, ~_mask(pc.starts_with(texts, "0000"))), pa.date32()))


def _to_timestamp(cells: Cells) -> Values:
    texts = _to_text_only(cells).array
    # Arrow would also take a date alone, or with hours alone; the year 0 exists in few places downstream.
    whole = _mask(pc.greater_equal(pc.binary_length(texts), len("YYYY-MM-DD HH:MM:SS")))
    return _found(cells, _parsed(_where(texts, whole & ~_mask(pc.starts_with(texts, "0000"))), pa.timestamp("us")))


def _to_binary(cells: Cells) -> Values:
    if pa.types.is_binary(cells.values.type) and cells.holds_only("blob"):
        return Values(array=cells.values)
    blobs = cells.only("blob")
    # Where there is not one, the driver's type is a guess, and Arrow casts few types to bytes.
    found = blobs.cast(pa.binary()) if blobs.null_count < len(blobs) else pa.nulls(len(blobs), pa.binary())
    return _found(cells, found)


# What the conversions share


def _found(cells: Cells, array: pa.Array) -> Values:
    """A value fits if it was found, or was NULL to begin with."""
    if array.null_count == cells.values.null_count:
        return Values(array=array)
    return Values(array=array, fits=_mask(pc.or_(pc.is_valid(array), pc.is_null(cells.values))))


def _mask(booleans: pa.Array) -> Mask:
    return booleans.fill_null(False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _where(array: pa.Array, keep: Mask) -> pa.Array:
    """The array with NULL wherever it is not to be kept."""
    return array if keep.all() else pc.if_else(pa.array(keep), array, pa.scalar(None, array.type))


def _all_below(reals: pa.Array, bound: int) -> bool:
    extremes = pc.min_max(reals)
    return extremes["min"].as_py() is None or (extremes["min"].as_py() > -bound and extremes["max"].as_py() < bound)


def _parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text read as a type, NULL where Arrow's parser refuses it."""
    return _halving(texts, kind, lambda part: part.cast(kind))


def _valid_utf8(texts: pa.Array) -> pa.Array:
    """Text with NULL wherever its bytes are no UTF-8: SQLite does not look."""
    return _halving(texts, pa.string(), _validated)


def _validated(texts: pa.Array) -> pa.Array:
    texts.validate(full=True)
    return texts


def _halving(array: pa.Array, kind: pa.DataType, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Converts all at once, and where that fails halves the array until the values that fail stand alone."""
    try:
        return convert(array)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, kind)
        middle = len(array) // 2
        return pa.concat_arrays(
            [_halving(array.slice(0, middle), kind, convert), _halving(array.slice(middle), kind, convert)]
        )


_COLUMN = "{}"
_AS_TEXT = "CASE typeof({0}) WHEN 'integer' THEN CAST({0} AS TEXT) WHEN 'real' THEN quote({0}) ELSE {0} END"
# quote() stops at a NUL character, so text that holds one is written by its bytes.
LITERAL_SQL = (
    "CASE WHEN {0} IS NULL THEN NULL WHEN typeof({0}) = 'text' AND instr(CAST({0} AS BLOB), x'00')"
    " THEN 'CAST(' || quote(CAST({0} AS BLOB)) || ' AS TEXT)' ELSE quote({0}) END"
)

_INTEGER = Kind(type=pa.int64(), carried="integers", read=_COLUMN, convert=_to_int64)
_REAL = Kind(type=pa.float64(), carried="floating-point numbers", read=_COLUMN, convert=_to_float64)
_NUMERIC = Kind(
    type=pa.float64(),
    carried="floating-point numbers, and integers up to 2^53",
    read=_COLUMN,
    convert=_to_exact_float64,
)
_BOOLEAN = Kind(type=pa.bool_(), carried="0 and 1", read=_COLUMN, convert=_to_bool)
_TEXT = Kind(type=pa.string(), carried="text that is valid UTF-8", read=_COLUMN, convert=_to_text)
_TEXT_ONLY = Kind(type=pa.string(), carried="text that is valid UTF-8", read=_COLUMN, convert=_to_text_only)
_TEXT_OR_NUMBER = Kind(
    type=pa.string(), carried="text that is valid UTF-8; numbers as their text", read=_AS_TEXT, convert=_to_text
)
_DATE = Kind(type=pa.date32(), carried="text YYYY-MM-DD", read=_COLUMN, convert=_to_date)
_TIMESTAMP = Kind(
    type=pa.timestamp("us"),
    carried="text YYYY-MM-DD HH:MM:SS, T or a blank between, up to six digits after a point",
    read=_COLUMN,
    convert=_to_timestamp,
)
_BINARY = Kind(type=pa.binary(), carried="blobs", read=_COLUMN, convert=_to_binary)
_LITERAL = Kind(
    type=pa.string(),
    carried="every value, as the SQL literal that means it",
    read=LITERAL_SQL,
    convert=_to_text,
)

# By the name that stands before any parenthesis. STRING and JSON have NUMERIC affinity: SQLite itself turns their
# numbers from text into integers, so numbers are at home in them.
_BY_NAME = {
    "BOOL": _BOOLEAN,
    "BOOLEAN": _BOOLEAN,
    "DATE": _DATE,
    "DATETIME": _TIMESTAMP,
    "TIMESTAMP": _TIMESTAMP,
    "TIMESTAMP WITHOUT TIME ZONE": _TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": _TEXT_ONLY,
    "TIMESTAMPTZ": _TEXT_ONLY,
    "TIME": _TEXT_ONLY,
    "JSON": _TEXT_OR_NUMBER,
    "STRING": _TEXT_OR_NUMBER,
    "UUID": _TEXT_ONLY,
    "ANY": _LITERAL,
    "": _LITERAL,
}
# SQLite's order: the first part found in the text decides.
_BY_AFFINITY = (
    ("INT", _INTEGER),
    ("CHAR", _TEXT),
    ("CLOB", _TEXT),
    ("TEXT", _TEXT),
    ("BLOB", _BINARY),
    ("REAL", _REAL),
    ("FLOA", _REAL),
    ("DOUB", _REAL),
)
