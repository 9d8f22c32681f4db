"""Compares keys with the cursor of a load, as the server orders them.

What comes before what is the server's to say: collations, and types of extensions, order in ways that nobody else
knows. So the keys of a piece go there in one statement; only integers are compared here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.sources.postgres.connect import Session, literal
from raypipe.sources.postgres.schema import Table, reference
from raypipe.sources.postgres.server_text import as_text

Numbers = npt.NDArray[Any]

BELOW, WITHIN, BEYOND = 0, 1, 2

# Types whose order here is the server's.
_INTEGER_OIDS = frozenset({20, 21, 23})


def places(
    session: Session, table: Table, keys: Sequence[pa.Array], low: Sequence[str], high: Sequence[str] | None
) -> Numbers:
    """Where keys lie: BELOW (up to ``low``), WITHIN (up to ``high``) or BEYOND.

    Args:
        session: Of the table's server.
        table: Whose keys they are.
        keys: One array for each key column.
        low: A key as texts; empty means before all keys.
        high: Likewise; None means behind all keys.
    """
    count = len(keys[0])
    found = np.full(count, BEYOND if high is not None else WITHIN, np.int8)
    if high:
        found[_up_to(session, table, keys, high)] = WITHIN
    if low:
        found[_up_to(session, table, keys, low)] = BELOW
    return found


def _up_to(session: Session, table: Table, keys: Sequence[pa.Array], bound: Sequence[str]) -> npt.NDArray[np.bool_]:
    fields = {field.name: field for field in table.fields}
    types = [fields[name] for name in table.key]
    if len(keys) == 1 and types[0].type_oid in _INTEGER_OIDS:
        values: Numbers = keys[0].to_numpy(zero_copy_only=False)
        below: npt.NDArray[np.bool_] = values <= int(bound[0])
        return below
    names = [f"k{place}" for place in range(len(keys))]
    arrays = ", ".join(f"${place}::text[]" for place in range(1, len(keys) + 1))
    cast = ", ".join(
        f"{name}::{field.type_sql}{_collation(field.name, table)}" for name, field in zip(names, types, strict=True)
    )
    rows = session.with_texts(
        f"SELECT string_agg(CASE WHEN ({cast}) <= ({row_of(table, bound)}) THEN '1' ELSE '0' END, '' ORDER BY place)"
        f" FROM unnest({arrays}) WITH ORDINALITY AS given({', '.join(names)}, place)",
        [array_of(as_text(key)) for key in keys],
    )
    found: npt.NDArray[np.bool_] = np.frombuffer(str(rows[0][0] or "").encode(), np.uint8) == ord("1")
    return found


def _collation(column: str, table: Table) -> str:
    collation = table.collations.get(column)
    return f" COLLATE {collation}" if collation else ""


def row_of(table: Table, key: Sequence[str]) -> str:
    """A key as SQL."""
    types = {field.name: field.type_sql for field in table.fields}
    return ", ".join(f"{literal(text)}::{types[name]}" for name, text in zip(table.key, key, strict=True))


def order_of(table: Table) -> str:
    """The key columns as SQL."""
    return reference(table.key)


def array_of(texts: pa.Array) -> str:
    """An array literal: every element quoted, so that no character has a meaning."""
    escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    return '{"' + '","'.join(escaped.to_pylist()) + '"}' if len(texts) else "{}"
