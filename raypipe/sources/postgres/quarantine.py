"""Where rows wait that do not fit their columns' types (the rule is in ``types``).

A row is parked by leaving its images out of its table's changes, so the pipeline treats it as absent: an update to a
value that does not fit leaves a lone before image, which deletes; one that mends it leaves a lone after image, which
inserts. At the same time it is a row of the instance's table ``_raypipe_quarantine``, under table and key, until an
image says that it is gone: whole, as the server writes its values, those that do not fit included. Nothing is written
to the server, where the row itself stays as it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import JSON_NULL, in_brackets, json_objects, json_strings
from raypipe.model import ChangeBatch, TableSchema
from raypipe.sources.postgres.misfits import Misfits
from raypipe.sources.postgres.server_text import server_text
from raypipe.sources.quarantine import emptying, parking, parted, quarantine_schema

_SCHEMA = "public"


def quarantine_of(instance: str) -> TableSchema:
    """The schema of the instance's quarantine."""
    return quarantine_schema(instance, _SCHEMA, text="text", json="json")


def park(
    schema: TableSchema,
    rows: pa.RecordBatch,
    misfits: Misfits | None,
    instance: str,
    *,
    clearing: bool,
) -> tuple[pa.RecordBatch, ChangeBatch | None, int]:
    """Takes rows that do not fit out of a table's changes.

    Args:
        schema: Of the table.
        rows: Its changes, system columns first.
        misfits: Of its images; None if all values fit.
        instance: Name.
        clearing: Whether the table may have rows in quarantine from before; then whatever goes is taken out of it.

    Returns:
        The changes that fit, the changes of the quarantine if there are any, and how many rows were parked, minus those
        whose end is known by an image that does not fit either.
    """
    misfit = np.zeros(rows.num_rows, np.bool_) if misfits is None else misfits.places >= 0
    found = parted(rows, misfit, clearing=clearing)
    if not len(found.told):
        return found.fitting, None, 0
    if misfits is None:
        misfits = Misfits(places=np.full(rows.num_rows, -1, np.int32), texts={})
    told = rows.take(pa.array(found.told))
    return found.fitting, _changes(schema, told, misfits.take(found.told), found.enters, instance), found.parked


def emptied(instance: str, commit: int, ordinal: int, time_us: int | None) -> ChangeBatch:
    """The quarantine's own TRUNCATE."""
    return emptying(quarantine_of(instance), commit, ordinal, time_us)


def _changes(
    schema: TableSchema,
    rows: pa.RecordBatch,
    misfits: Misfits,
    enters: npt.NDArray[np.bool_],
    instance: str,
) -> ChangeBatch:
    """An insert for each image that enters the quarantine, a delete by key for each other one."""
    names = pa.array(schema.names)
    reasons = pa.array([f"a {column.declared} that {column.type} cannot hold" for column in schema.columns])
    places = pa.array(misfits.places, mask=~enters)
    texts = {name: _text(rows, misfits, name) for name in schema.names}
    return parking(
        quarantine_of(instance),
        schema,
        rows,
        enters,
        row_key=in_brackets(pc.binary_join_element_wise(*(texts[name] for name in schema.key or schema.names), ", ")),
        column=names.take(places),
        reason=reasons.take(places),
        row=json_objects(schema.names, list(texts.values())),
    )


def _text(rows: pa.RecordBatch, misfits: Misfits, name: str) -> pa.Array:
    """A column as JSON: what the server writes, as strings, ``null`` for NULL."""
    texts = server_text(rows.column(name))
    if name in misfits.texts:
        texts = pc.coalesce(misfits.texts[name], texts)
    return json_strings(texts).fill_null(JSON_NULL)
