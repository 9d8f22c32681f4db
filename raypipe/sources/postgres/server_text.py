"""What the server writes for values: of those that are Arrow's by now, and of those that Arrow has no place for.

By the rules of the sessions that values come through (``types.SETTINGS``), so that a value has one text whether it came
by a copy or by the stream. Floats have the server's digits; where it changes to an exponent is not imitated.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import decimal_text, hex_text, relisted
from raypipe.sources.postgres.columns import BINARY, Cells, gathered
from raypipe.sources.postgres.frames import words
from raypipe.sources.postgres.moments import POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_US
from raypipe.sources.postgres.values import valid_utf8

Numbers = npt.NDArray[np.int64]

MOST_CHARACTERS = 65_536
"""Of a text of a value that did not fit; an array of any length may be one."""

_CUT = "…"
_DAY_US = 86_400_000_000
_INFINITE_DATES = {2**31 - 1: "infinity", -(2**31): "-infinity"}
_INFINITE_TIMES = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_NUMERICS = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_WITHIN_ARRAY = r'(?i)^$|^null$|[{}",\\\s]'  # what the server quotes


def server_text(values: pa.Array) -> pa.Array:
    """Values of a column as the server writes them; NULL stays NULL."""
    kind, types = values.type, pa.types
    if types.is_list(kind):
        return _array(values)
    if types.is_boolean(kind):
        return pc.if_else(values, "t", "f")
    if types.is_decimal(kind):
        return decimal_text(values)
    if types.is_date32(kind):
        return _where_valid(_day_text(_numbers(values, pa.int32())), values)
    if types.is_timestamp(kind):
        us = _numbers(values, pa.int64())
        return _where_valid(_moment_text(us // _DAY_US, us % _DAY_US, zone="+00" if kind.tz else ""), values)
    if types.is_time(kind):
        return _where_valid(_time_text(_numbers(values, pa.int64())), values)
    if types.is_floating(kind):
        return _float_text(values)
    return as_text(values)


def as_text(values: pa.Array) -> pa.Array:
    """Values as texts that the server reads back as the same values."""
    kind, types = values.type, pa.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return pc.binary_join_element_wise("\\x", hex_text(values.cast(pa.binary())), "")
    return values.cast(pa.string())


def misfit_text(cells: Cells, kind: pa.DataType, *, as_output: bool) -> pa.Array:
    """Values as the server writes them that do not fit their Arrow type, none of them NULL.

    Args:
        cells: Of the values.
        kind: That they do not fit.
        as_output: Whether they were sent as what the type's output function makes, whatever the format of the row.
    """
    if as_output or cells.format != BINARY or pa.types.is_string(kind):
        return _bounded(_sent_text(cells))
    if pa.types.is_decimal(kind):
        sign = words(cells.buffer, ">u2")[cells.first + 4]
        return _named(sign.astype(np.int64), _NUMERICS, pa.nulls(len(cells), pa.string()))
    if pa.types.is_date32(kind):
        days = words(cells.buffer, ">i4")[cells.first].astype(np.int64)
        return _named(days, _INFINITE_DATES, _day_text(days + POSTGRES_EPOCH_DAYS))
    us = words(cells.buffer, ">i8")[cells.first].astype(np.int64)
    if pa.types.is_time(kind):
        return pa.array(["24:00:00"] * len(cells), pa.string())
    epoch_days = POSTGRES_EPOCH_US // _DAY_US
    finite = _moment_text(us // _DAY_US + epoch_days, us % _DAY_US, zone="+00" if kind.tz else "")
    return _named(us, _INFINITE_TIMES, finite)


def _numbers(values: pa.Array, kind: pa.DataType) -> Numbers:
    return pc.fill_null(values.view(kind), 0).to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]


def _where_valid(texts: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(values.is_valid(), texts, pa.scalar(None, pa.string()))


def _day_text(days: Numbers) -> pa.Array:
    """Days since 1970."""
    day, before_christ = _day(days)
    return pc.if_else(before_christ, pc.binary_join_element_wise(day, " BC", ""), day)


def _moment_text(days: Numbers, us: Numbers, zone: str) -> pa.Array:
    """Days since 1970 and microseconds of the day."""
    day, before_christ = _day(days)
    era = pc.if_else(before_christ, " BC", "")
    return pc.binary_join_element_wise(day, " ", _time_text(us), zone, era, "")


def _day(days: Numbers) -> tuple[pa.Array, pa.Array]:
    """Year, month and day as text, and which are before Christ, where year 0 is 1 BC."""
    dates = days.astype("datetime64[D]")
    years = dates.astype("datetime64[Y]").astype(np.int64) + 1970
    months_and_days = pc.utf8_slice_codeunits(pa.array(np.datetime_as_string(dates).astype(object), pa.string()), -6)
    year = pc.utf8_lpad(pa.array(np.where(years > 0, years, 1 - years)).cast(pa.string()), 4, "0")
    return pc.binary_join_element_wise(year, months_and_days, ""), pa.array(years <= 0)


def _time_text(us: Numbers) -> pa.Array:
    """Microseconds of a day, without the zeros at the end of their fraction."""
    text = pa.array(us).view(pa.time64("us")).cast(pa.string())
    whole, fraction = pc.utf8_slice_codeunits(text, 0, 8), pc.utf8_rtrim(pc.utf8_slice_codeunits(text, 8), "0")
    return pc.binary_join_element_wise(whole, pc.utf8_rtrim(fraction, "."), "")


def _float_text(values: pa.Array) -> pa.Array:
    text = values.cast(pa.string())
    for arrow, server in _FLOATS.items():
        text = pc.if_else(pc.equal(text, arrow), server, text)
    return pc.replace_substring_regex(text, r"e([+-])(\d)$", r"e\10\2")  # one digit names a group: \1, then a zero


def _array(lists: pa.ListArray) -> pa.Array:
    elements = server_text(lists.flatten())
    if not pa.types.is_list(lists.type.value_type):
        escaped = pc.replace_substring(pc.replace_substring(elements, "\\", "\\\\"), '"', '\\"')
        quoted = pc.binary_join_element_wise('"', escaped, '"', "")
        elements = pc.if_else(pc.match_substring_regex(elements, _WITHIN_ARRAY), quoted, elements)
    joined = pc.binary_join(relisted(lists, elements.fill_null("NULL")), ",")
    return pc.binary_join_element_wise("{", joined, "}", "")


def _sent_text(cells: Cells) -> pa.Array:
    """What was sent; bytes that are no UTF-8 as ``\\x…``."""
    sent = gathered(cells, pa.binary())
    texts = valid_utf8(gathered(cells, pa.string()))
    return pc.coalesce(texts, as_text(sent)) if texts.null_count else texts


def _bounded(texts: pa.Array) -> pa.Array:
    long = pc.greater(pc.utf8_length(texts), MOST_CHARACTERS)
    if not pc.any(long).as_py():
        return texts
    cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(texts, 0, MOST_CHARACTERS), _CUT, "")
    return pc.if_else(long, cut, texts)


def _named(numbers: Numbers, names: dict[int, str], others: pa.Array) -> pa.Array:
    """The names of some numbers, and the text given for the others."""
    places = pc.index_in(pa.array(numbers), value_set=pa.array(list(names), pa.int64()))
    return pc.coalesce(pa.array(list(names.values())).take(places), others)
