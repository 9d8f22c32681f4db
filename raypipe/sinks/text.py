"""Values as text and back, by column: for stores that have no decimals, dates or times of their own.

Arrow's casts do the work. What they leave out is done here: decimals in plain notation (Arrow writes 0.0000001 as
1E-7), times of day, and years that do not have four digits.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import Corrupt, LimitExceeded

# Arrow writes a year beyond these as "<value out of range: ...>" and never reads it back.
YEARS = (-32767, 32767)
_MOMENT = r"^(?P<year>-?\d+)-(?P<month>\d\d)-(?P<day>\d\d)(?: (?P<time>[\d:.]+)Z?)?$"
_TIME = r"^(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d+))?$"
_PER_SECOND = {"us": 10**6, "ns": 10**9}


def moment_text(column: pa.Array) -> pa.Array:
    """Dates, times of day and timestamps in ISO order; timestamps in UTC end in Z.

    Raises:
        LimitExceeded: a year outside ``YEARS``; an infinite timestamp is one.
    """
    text = column.cast(pa.string())
    if pc.any(pc.starts_with(text, "<")).as_py():
        raise LimitExceeded(
            f"A date or timestamp lies outside the years {YEARS[0]} to {YEARS[1]}, which cannot be written as text.",
            remedy="Map it in the step's SQL, or use a sink with a native type for it.",
        )
    return text


def moments(text: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Reads what ``moment_text`` wrote.

    Raises:
        Corrupt: some text is no such moment; somebody else wrote it.
    """
    if pa.types.is_time(wanted):
        return _of_day(text, "us").cast(wanted)
    try:
        return text.cast(wanted)
    except pa.ArrowInvalid:  # a year that has not four digits, or no moment at all
        parts = pc.extract_regex(text, _MOMENT)
        if parts.null_count != text.null_count:
            raise Corrupt(f"A stored text is no {wanted}.") from None
        month = _number(parts, "month") - 1 + 12 * (_number(parts, "year") - 1970)
        days = month.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + _number(parts, "day") - 1
        valid = pa.array(parts.is_valid())
        if pa.types.is_date(wanted):
            return pc.if_else(valid, pa.array(days.astype(np.int32)).view(wanted), None)
        per_second = _PER_SECOND[wanted.unit]
        of_day = pc.fill_null(_of_day(pc.struct_field(parts, "time"), wanted.unit).view(pa.int64()), 0)
        moment = pa.array(days * 86_400 * per_second + of_day.to_numpy()).view(wanted)
        return pc.if_else(valid, moment, None)


def _of_day(text: pa.Array, unit: str) -> pa.Array:
    parts = pc.extract_regex(text, _TIME)
    if parts.null_count != text.null_count:
        raise Corrupt("A stored text is no time of day.")
    seconds = (_number(parts, "hour") * 60 + _number(parts, "minute")) * 60 + _number(parts, "second")
    fraction = pc.utf8_rpad(pc.fill_null(pc.struct_field(parts, "fraction"), ""), len(str(_PER_SECOND[unit])) - 1, "0")
    ticks = pa.array(seconds * _PER_SECOND[unit] + fraction.cast(pa.int64()).to_numpy())
    return pc.if_else(parts.is_valid(), ticks.view(pa.time64(unit)), None)


def _number(parts: pa.StructArray, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]] = (
        pc.fill_null(pc.struct_field(parts, name), "0").cast(pa.int64()).to_numpy()
    )
    return numbers
