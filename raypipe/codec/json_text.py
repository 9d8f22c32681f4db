"""JSON text of whole columns: strings, arrays and objects joined from texts that are JSON already."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

JSON_NULL = "null"
# All that JSON wants escaped besides the quote and the backslash.
_CONTROL = r"[\x00-\x1f]"
_ESCAPES = {chr(code): json.dumps(chr(code))[1:-1] for code in range(0x20)}


def json_strings(texts: pa.Array) -> pa.Array:
    """Texts as JSON strings; NULL stays NULL."""
    escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    if pc.any(pc.match_substring_regex(texts, _CONTROL)).as_py():
        for control, escape in _ESCAPES.items():
            escaped = pc.replace_substring(escaped, control, escape)
    return pc.binary_join_element_wise('"', escaped, '"', "")


def json_arrays(lists: pa.ListArray, elements: pa.Array) -> pa.Array:
    """A JSON array for each list; NULL for a list that is NULL.

    Args:
        lists: Whose lengths count.
        elements: JSON of ``lists.flatten()``, NULL for ``null``.
    """
    return in_brackets(pc.binary_join(relisted(lists, elements.fill_null(JSON_NULL)), ","))


def json_objects(names: Sequence[str], members: Sequence[pa.Array]) -> pa.Array:
    """A JSON object for each row.

    Args:
        names: Of the members, at least one.
        members: JSON of each, NULL for ``null``.
    """
    parts = [
        pc.binary_join_element_wise(json.dumps(name, ensure_ascii=False), member.fill_null(JSON_NULL), ":")
        for name, member in zip(names, members, strict=True)
    ]
    return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*parts, ","), "}", "")


def in_brackets(joined: pa.Array) -> pa.Array:
    """Elements that are joined already, as JSON arrays."""
    return pc.binary_join_element_wise("[", joined, "]", "")


def relisted(lists: pa.ListArray, elements: pa.Array) -> pa.ListArray:
    """Lists as long as the given ones, NULL where these are, with other elements (in place of ``lists.flatten()``)."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    return pa.ListArray.from_arrays(offsets, elements, mask=lists.is_null())
