"""Where rows wait that do not fit their columns' types (the rule is in ``types``).

A row is parked by leaving its images out of its table's changes, so the pipeline treats it as absent: an update to a
value that does not fit leaves a lone before image, which deletes; one that mends it leaves a lone after image, which
inserts. At the same time it is a row of the instance's table ``_raypipe_quarantine``, under table and key, until an
image says that it is gone. Nothing is written to the server, where the row itself stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import hex_text
from raypipe.model import ChangeBatch, TableSchema
from raypipe.sources.quarantine import emptying, parking, parted, quarantine_schema

_SCHEMA = "public"
_CONTROL = r"[\x00-\x1f]"


def quarantine_of(instance: str) -> TableSchema:
    """The schema of the instance's quarantine."""
    return quarantine_schema(instance, _SCHEMA, text="text", json="json")


def park(
    schema: TableSchema,
    rows: pa.RecordBatch,
    misfits: npt.NDArray[np.int32] | None,
    instance: str,
    *,
    clearing: bool,
) -> tuple[pa.RecordBatch, ChangeBatch | None, int]:
    """Takes rows that do not fit out of a table's changes.

    Args:
        schema: Of the table.
        rows: Its changes, system columns first.
        misfits: For each image the place of its first column that does not fit, -1 if all do; None if all do. Plus the
            number of columns where the value is one that the source was not sent.
        instance: Name.
        clearing: Whether the table may have rows in quarantine from before; then whatever goes is taken out of it.

    Returns:
        The changes that fit, the changes of the quarantine if there are any, and how many rows were parked, minus those
        whose end is known by an image that does not fit either.
    """
    misfit = np.zeros(rows.num_rows, np.bool_) if misfits is None else misfits >= 0
    found = parted(rows, misfit, clearing=clearing)
    if not len(found.told):
        return found.fitting, None, 0
    places = np.full(rows.num_rows, -1, np.int32) if misfits is None else misfits
    batch = _changes(schema, rows.take(pa.array(found.told)), places[found.told], found.enters, instance)
    return found.fitting, batch, found.parked


def emptied(instance: str, commit: int, ordinal: int, time_us: int | None) -> ChangeBatch:
    """The quarantine's own TRUNCATE."""
    return emptying(quarantine_of(instance), commit, ordinal, time_us)


def _changes(
    schema: TableSchema,
    rows: pa.RecordBatch,
    misfits: npt.NDArray[np.int32],
    enters: npt.NDArray[np.bool_],
    instance: str,
) -> ChangeBatch:
    """An insert for each image that enters the quarantine, a delete by key for each other one."""
    names = pa.array([*schema.names, *schema.names])
    unfit = [f"a {column.declared} that {column.type} cannot hold" for column in schema.columns]
    reasons = pa.array([*unfit, *(["a large value that the source was not sent"] * len(unfit))])
    places = pa.array(misfits, mask=~enters)
    return parking(
        quarantine_of(instance),
        schema,
        rows,
        enters,
        row_key=_json_list(rows, schema.key or schema.names),
        column=names.take(places),
        reason=reasons.take(places),
        row=_json_object(rows, schema.names),
    )


def _json_list(rows: pa.RecordBatch, names: Sequence[str]) -> pa.Array:
    """Some columns of each row as a JSON list of texts."""
    parts = pc.binary_join_element_wise(*(_json(rows.column(name)) for name in names), ", ")
    return pc.binary_join_element_wise("[", parts, "]", "")


def _json_object(rows: pa.RecordBatch, names: Sequence[str]) -> pa.Array:
    """Each row as a JSON object, from column to text; NULL where there is none or it does not fit."""
    members = [
        pc.binary_join_element_wise(json.dumps(name, ensure_ascii=False), _json(rows.column(name)), ": ")
        for name in names
    ]
    return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*members, ", "), "}", "")


def _json(values: pa.Array) -> pa.Array:
    """Values as JSON strings, NULL as ``null``."""
    if pa.types.is_nested(values.type):
        lists = values.to_pylist()
        texts = pa.array([None if each is None else json.dumps(each, default=str) for each in lists], pa.string())
    elif pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        texts = pc.binary_join_element_wise("\\x", hex_text(values.cast(pa.binary())), "")
    else:
        texts = values.cast(pa.string())
    escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    quoted = pc.binary_join_element_wise('"', escaped, '"', "")
    unusual = pc.match_substring_regex(texts, _CONTROL).fill_null(False)
    if pc.any(unusual).as_py():
        exact = [json.dumps(text, ensure_ascii=False) for text in texts.filter(unusual).to_pylist()]
        quoted = pc.replace_with_mask(quoted, unusual, pa.array(exact, pa.string()))
    return quoted.fill_null("null")
