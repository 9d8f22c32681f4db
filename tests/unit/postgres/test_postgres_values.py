"""Text and binary of a value become the same Arrow; the formats are written here, from their descriptions."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import Corrupt, InvariantBroken
from raypipe.sources.postgres import from_text
from raypipe.sources.postgres.columns import BINARY, TEXT, Cells
from raypipe.sources.postgres.frames import PADDING_BYTES
from raypipe.sources.postgres.lists import list_from_text
from raypipe.sources.postgres.types import Catalog, PgKind
from raypipe.sources.postgres.values import Values

NUMERIC, TEXT_OID = 1700, 25
CATALOG = Catalog(
    [
        (oid, "pg_catalog", name, "b", 0, 0, -1, 0, "false", name)
        for oid, name in ((NUMERIC, "numeric"), (701, "float8"), (700, "float4"), (TEXT_OID, "text"), (869, "inet"))
    ]
)
DAY_US = 86_400_000_000


def cells(values: Sequence[bytes | None], kind: int = TEXT) -> Cells:
    """Values somewhere in a buffer, with something between them."""
    buffer, first, size = b"", [], []
    for value in values:
        buffer += b"\xfe\xfe\xfe"
        first.append(len(buffer))
        size.append(len(value or b""))
        buffer += value or b""
    data = np.frombuffer(buffer + bytes(PADDING_BYTES), np.uint8)
    present = np.array([value is not None for value in values])
    return Cells.of(data, np.array(first, np.int64), np.array(size, np.int64), kind, None if present.all() else present)


def numeric_kind(precision: int, scale: int) -> PgKind:
    return CATALOG.kind_of(NUMERIC, (precision << 16 | (scale & 0x7FF)) + 4)


def numeric_binary(number: Decimal, scale: int) -> bytes:
    """int16 digits, weight, sign, scale, then digits in base 10,000."""
    sign = 0x4000 if number < 0 else 0
    text = f"{number.copy_abs():f}"  # abs() would round
    whole, _, fraction = text.partition(".")
    whole = whole.zfill(-(-len(whole) // 4) * 4)
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int((whole + fraction)[at : at + 4]) for at in range(0, len(whole + fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        sign = weight = 0
    return struct.pack(f"!hhHH{len(groups)}h", len(groups), weight, sign, max(scale, 0), *groups)


@st.composite
def numerics(draw: st.DrawFn) -> tuple[int, int, list[Decimal | None]]:
    precision = draw(st.integers(1, 76))
    scale = draw(st.integers(0, precision))
    bound = 10**precision - 1
    unscaled = draw(
        st.lists(st.one_of(st.none(), st.integers(-bound, bound), st.integers(-10_000, 10_000)), max_size=9)
    )
    fitting = [None if each is None or abs(each) > bound else each for each in unscaled]
    digits = [None if each is None else tuple(map(int, str(abs(each)))) for each in fitting]
    return (
        precision,
        scale,
        [
            None if digit is None or each is None else Decimal((int(each < 0), digit, -scale))
            for each, digit in zip(fitting, digits, strict=True)
        ],
    )


def same(one: Values, other: Values) -> list[object]:
    assert one.array.type == other.array.type
    assert one.array.equals(other.array)
    assert (one.fits is None) == (other.fits is None)
    one.array.validate(full=True)
    other.array.validate(full=True)
    return one.array.to_pylist()


@given(numerics())
def test_a_numeric_of_any_digits_is_exact_in_both_formats(case):
    precision, scale, numbers = case
    kind = numeric_kind(precision, scale)
    assert kind.from_binary is not None
    texts = [None if number is None else f"{number:f}".encode() for number in numbers]
    binaries = [None if number is None else numeric_binary(number, scale) for number in numbers]
    found = same(kind.from_text(cells(texts)), kind.from_binary(cells(binaries, BINARY)))
    assert found == numbers


@pytest.mark.parametrize(("precision", "scale"), [(12, 2), (30, 4), (60, 4)])
def test_what_is_no_number_does_not_fit_in_either_format(precision, scale):
    kind = numeric_kind(precision, scale)
    assert kind.from_binary is not None
    texts = [b"1.00", b"NaN", b"Infinity", b"-Infinity", None]
    signs = [0xC000, 0xD000, 0xF000]
    binaries = [numeric_binary(Decimal(1), scale), *(struct.pack("!hhHH", 0, 0, sign, 0) for sign in signs), None]
    by_text, by_binary = kind.from_text(cells(texts)), kind.from_binary(cells(binaries, BINARY))
    assert same(by_text, by_binary) == [Decimal(1), None, None, None, None]
    assert by_text.fits is not None
    assert by_binary.fits is not None
    assert by_text.fits.tolist() == by_binary.fits.tolist() == [True, False, False, False, True]


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=9))
def test_a_float_has_the_same_bits_in_both_formats(numbers):
    kind = CATALOG.kind_of(701)
    assert kind.from_binary is not None
    names = {math.inf: b"Infinity", -math.inf: b"-Infinity"}
    texts = [
        None if number is None else b"NaN" if math.isnan(number) else names.get(number, repr(number).encode())
        for number in numbers
    ]
    binaries = [None if number is None else struct.pack("!d", number) for number in numbers]
    by_text, by_binary = kind.from_text(cells(texts)).array, kind.from_binary(cells(binaries, BINARY)).array
    assert by_text.view(pa.int64()).equals(by_binary.view(pa.int64()))


def civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970, in the proleptic Gregorian calendar."""
    shifted = days + 719_468
    era, of_era = divmod(shifted, 146_097)
    of_year_0 = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * of_year_0 + of_year_0 // 4 - of_year_0 // 100)
    month_0 = (5 * of_year + 2) // 153
    month = month_0 + 3 if month_0 < 10 else month_0 - 9
    return of_year_0 + era * 400 + (month <= 2), month, of_year - (153 * month_0 + 2) // 5 + 1


def date_text(days: int) -> str:
    year, month, day = civil(days)
    return f"{year:04d}-{month:02d}-{day:02d}" if year > 0 else f"{1 - year:04d}-{month:02d}-{day:02d} BC"


DAYS = st.one_of(st.integers(-2_440_550, 2_145_042_905), st.integers(-800_000, 4_000_000))


@given(st.lists(st.one_of(st.none(), DAYS), max_size=9))
def test_a_date_of_any_year_is_exact(days):
    values = from_text.date(cells([None if day is None else date_text(day).encode() for day in days]))
    assert values.fits is None
    assert values.array.view(pa.int32()).to_pylist() == days


@given(st.lists(st.one_of(st.none(), st.tuples(DAYS, st.integers(0, DAY_US - 1))), max_size=9), st.booleans())
def test_a_moment_of_any_year_is_exact_or_beyond_arrow(moments, zoned):
    texts, expected, fitting = [], [], []
    for moment in moments:
        if moment is None:
            texts.append(None)
            expected.append(None)
            fitting.append(True)
            continue
        days, us = moment
        seconds, fraction = divmod(us, 1_000_000)
        clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        clock += f".{fraction:06d}".rstrip("0").rstrip(".")
        date, bc, _ = date_text(days).partition(" BC")
        texts.append(f"{date} {clock}{'+00' * zoned}{bc}".encode())
        fits = days < (2**63 - 1) // DAY_US
        expected.append(days * DAY_US + us if fits else None)
        fitting.append(fits)
    values = (from_text.timestamptz if zoned else from_text.timestamp)(cells(texts))
    assert values.array.view(pa.int64()).to_pylist() == expected
    assert (values.fits is None and all(fitting)) or (values.fits is not None and values.fits.tolist() == fitting)


def array_text(value: object) -> str:
    """An array as ``array_out`` writes it."""
    if isinstance(value, list):
        return "{" + ",".join(map(array_text, value)) + "}"
    if value is None:
        return "NULL"
    text = str(value)
    if text == "" or text.upper() == "NULL" or any(letter in '{},"\\ \t\n\r\v\f' for letter in text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


ODD = ["", "NULL", "null", "\\", '"', "{}", ",", '\\"', "a b"]
ELEMENTS = st.one_of(st.none(), st.sampled_from(ODD), st.text('ab\\"{},é ', max_size=6))


@st.composite
def arrays(draw: st.DrawFn, dimensions: int) -> list[object]:
    """A regular array; one with an empty dimension is empty as a whole."""
    lengths = [draw(st.integers(1, 3)) for _ in range(dimensions)]

    def made(level: int) -> list[object]:
        return [draw(ELEMENTS) if level == dimensions else made(level + 1) for _ in range(lengths[level - 1])]

    return draw(st.sampled_from([[], made(1)]))


@given(st.data(), st.integers(1, 3))
def test_an_array_of_any_texts_is_taken_apart_exactly(draw, dimensions):
    found = draw.draw(st.lists(st.one_of(st.none(), arrays(dimensions)), max_size=7))
    texts = [None if each is None else array_text(each).encode() for each in found]
    values = list_from_text(from_text.text, dimensions)(cells(texts))
    values.array.validate(full=True)
    assert values.fits is None
    assert values.array.to_pylist() == found


@given(st.data())
def test_an_array_of_other_dimensions_does_not_fit_and_its_neighbours_do(draw):
    found = [(draw.draw(arrays(depth)), depth) for depth in draw.draw(st.lists(st.integers(1, 3), max_size=7))]
    texts = [array_text(each).encode() for each, _ in found]
    values = list_from_text(from_text.text, 2)(cells([*texts, b"[0:1]={{1},{2}}", None]))
    expected = [each if depth == 2 or each == [] else None for each, depth in found]
    assert values.array.to_pylist() == [*expected, None, None]
    assert values.fits is not None
    assert values.fits.tolist() == [*(each is not None for each in expected), False, True]


def test_an_array_whose_element_does_not_fit_does_not_fit():
    kind = numeric_kind(5, 1)
    values = list_from_text(kind.from_text, 1)(cells([b"{1,2}", b"{1,NaN}", None, b"{}", b"{NULL,3}"]))
    assert values.array.to_pylist() == [[Decimal(1), Decimal(2)], None, None, [], [None, Decimal(3)]]
    assert values.fits is not None
    assert values.fits.tolist() == [True, False, True, True, True]


@given(st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=9))
def test_bytes_are_exact(found):
    values = from_text.binary(cells([None if each is None else b"\\x" + each.hex().encode() for each in found]))
    assert values.array.to_pylist() == found


def test_text_that_is_no_utf8_does_not_fit():
    values = from_text.text(cells([b"fine", b"\xff\xfe", None, "é".encode()]))
    assert values.array.to_pylist() == ["fine", None, None, "é"]
    assert values.fits is not None
    assert values.fits.tolist() == [True, False, True, True]


def test_no_values_at_all_are_a_column_of_none():
    for captured_kind in (numeric_kind(12, 2), CATALOG.kind_of(TEXT_OID), CATALOG.kind_of(701)):
        assert captured_kind.convert(cells([])).array.to_pylist() == []
        assert captured_kind.convert(cells([None, None])).array.to_pylist() == [None, None]


def test_bytes_that_are_no_value_are_corrupt_without_telling_them():
    with pytest.raises(Corrupt, match="float8") as raised:
        CATALOG.kind_of(701).convert(cells([b"12secret"]))
    assert "secret" not in str(raised.value) + raised.value.cause
    assert raised.value.__cause__ is None


def test_a_type_that_is_not_read_in_binary_refuses_it():
    with pytest.raises(InvariantBroken, match="inet"):
        CATALOG.kind_of(869).convert(cells([b"\2\x20\0\4\1\2\3\4"], BINARY))


def test_an_unknown_type_is_text():
    kind = CATALOG.kind_of(99_999)
    assert (kind.type, kind.declared, kind.from_binary) == (pa.string(), "type 99999", None)
    assert "format" in kind.copy_sql
    assert json.dumps(CATALOG.text_kind(NUMERIC, (12 << 16 | 2) + 4).declared) == '"numeric(12,2)"'
