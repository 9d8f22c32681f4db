"""Dates and times beyond the usual four-digit years: years of more digits, years before Christ, infinities."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.sources.postgres.columns import Mask
from raypipe.sources.postgres.frames import Places

POSTGRES_EPOCH_DAYS = 10_957  # from 1970-01-01 to 2000-01-01
POSTGRES_EPOCH_US = POSTGRES_EPOCH_DAYS * 86_400_000_000
_DAY_US = 86_400_000_000
_LAST_US = 2**63 - 1
# PostgreSQL begins with 4713 BC, and ends with 5874897 for dates and 294276 for timestamps; Arrow's 64 bits of
# microseconds end in January 294247.
_LAST_DAY_OF_TIMESTAMPS = _LAST_US // _DAY_US

_PARTS = (
    r"^(?P<year>\d+)-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?: (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d{1,6}))?)?(?:\+00)?(?P<bc> BC)?$"
)


def moments_of_unusual_text(texts: pa.Array, kind: pa.DataType) -> tuple[Places, Mask]:
    """Days or microseconds since 1970 by the proleptic Gregorian calendar, and which fit Arrow's range."""
    parts = pc.extract_regex(texts, pattern=_PARTS)
    matched = pc.is_valid(parts).to_numpy(zero_copy_only=False)
    years = _number(parts, "year")
    before_christ = pc.equal(_text(parts, "bc"), " BC").to_numpy(zero_copy_only=False)
    years = np.where(before_christ, 1 - years, years)  # there is no year 0
    days = _days(years, _number(parts, "month"), _number(parts, "day"))
    if pa.types.is_date32(kind):
        return days, matched
    seconds = (_number(parts, "hour") * 60 + _number(parts, "minute")) * 60 + _number(parts, "second")
    fraction = _number_of(pc.utf8_rpad(_text(parts, "fraction"), 6, "0"))
    fits = matched & (days < _LAST_DAY_OF_TIMESTAMPS)
    us = np.where(fits, days, 0) * _DAY_US + seconds * 1_000_000 + fraction
    return us, fits


def _days(years: Places, months: Places, days: Places) -> Places:
    """Days since 1970-01-01: http://howardhinnant.github.io/date_algorithms.html#days_from_civil."""
    shifted: Places = years - (months <= 2)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * ((months + 9) % 12) + 2) // 5 + days - 1
    since: Places = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return since


def _text(parts: pa.Array, name: str) -> pa.Array:
    return pc.fill_null(pc.struct_field(parts, name), "")


def _number(parts: pa.Array, name: str) -> Places:
    return _number_of(_text(parts, name))


def _number_of(texts: pa.Array) -> Places:
    """Digits as numbers; nothing at all is 0."""
    padded = pc.if_else(pc.equal(texts, ""), "0", texts)
    return padded.cast(pa.int64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
