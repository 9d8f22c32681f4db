"""Decimals, dates and times as text and back."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.codec import decimal_text
from raypipe.errors import Corrupt, LimitExceeded
from raypipe.sinks.text import moment_text, moments

DAY_US = 86_400_000_000
# Days of the years -32767 and 32767.
FIRST, LAST = -12_687_428, 11_248_737


@given(st.lists(st.none() | st.integers(FIRST * DAY_US, (LAST + 1) * DAY_US - 1), max_size=5))
def test_any_timestamp_between_the_years_comes_back(values):
    for arrow in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        column = pa.array(values, arrow)
        assert moments(moment_text(column), arrow).equals(column)


@given(st.lists(st.none() | st.integers(FIRST, LAST), max_size=5))
def test_any_date_between_the_years_comes_back(values):
    column = pa.array(values, pa.date32())
    assert moments(moment_text(column), pa.date32()).equals(column)


@given(st.lists(st.none() | st.integers(0, DAY_US - 1), max_size=5))
def test_any_time_of_day_comes_back(values):
    column = pa.array(values, pa.time64("us"))
    assert moments(moment_text(column), pa.time64("us")).equals(column)


@given(
    st.integers(0, 38).flatmap(
        lambda scale: st.tuples(
            st.just(scale), st.lists(st.none() | st.integers(-(10**38) + 1, 10**38 - 1), max_size=5)
        )
    )
)
def test_any_decimal_comes_back_without_an_exponent(scaled):
    scale, values = scaled
    unscaled = pa.array([value and Decimal(value) for value in values], pa.decimal128(38, 0))
    column = pa.Array.from_buffers(pa.decimal128(38, scale), len(unscaled), unscaled.buffers())
    text = decimal_text(column)
    assert not any("E" in one for one in text.to_pylist() if one is not None)
    assert text.cast(column.type).equals(column)


def test_text_looks_as_people_write_it():
    assert decimal_text(pa.array([Decimal("1.5"), Decimal("-0.01")], pa.decimal128(18, 2))).to_pylist() == [
        "1.50",
        "-0.01",
    ]
    assert decimal_text(pa.array([Decimal(0)], pa.decimal128(18, 8))).to_pylist() == ["0.00000000"]
    assert moment_text(pa.array([1], pa.timestamp("us", tz="UTC"))).to_pylist() == ["1970-01-01 00:00:00.000001Z"]


def test_a_year_that_has_no_text_is_refused():
    with pytest.raises(LimitExceeded, match="years"):
        moment_text(pa.array([2**63 - 1], pa.timestamp("us")))


@pytest.mark.parametrize("arrow", [pa.date32(), pa.time64("us"), pa.timestamp("us")], ids=str)
def test_text_that_somebody_else_wrote_is_called_corrupt(arrow):
    with pytest.raises(Corrupt, match="no"):
        moments(pa.array(["soon"]), arrow)
