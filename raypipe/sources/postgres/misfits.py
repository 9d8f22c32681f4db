"""Values that their column's Arrow type cannot hold: where they are, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SchemaMismatch
from raypipe.model import TableSchema
from raypipe.sources.postgres.columns import Mask


@dataclass(frozen=True, kw_only=True)
class Misfits:
    """Of some rows, or images of rows, at least one has a value that does not fit.

    Attributes:
        places: For each row the place in the schema of its first column whose value does not fit (and is NULL in the
            row), -1 if all do.
        texts: By column, as the server writes them, the values that do not fit; NULL where one does. A column whose
            values all fit has none.
    """

    places: npt.NDArray[np.int32]
    texts: Mapping[str, pa.Array]

    def filter(self, keep: Mask) -> Misfits:
        """Those of the rows to keep."""
        mask = pa.array(keep)
        return Misfits(places=self.places[keep], texts={name: text.filter(mask) for name, text in self.texts.items()})

    def take(self, rows: npt.NDArray[np.int64]) -> Misfits:
        """Those of some rows; what is known of a row numbered -1 is nothing."""
        indices = pa.array(rows, mask=rows < 0)
        places = np.where(rows < 0, np.int32(-1), self.places[np.maximum(rows, 0)])
        return Misfits(places=places, texts={name: text.take(indices) for name, text in self.texts.items()})

    def among(self, columns: Sequence[int]) -> Misfits:
        """The same with places in a schema in which the columns stand at these places."""
        places = np.array(columns, np.int32)[np.maximum(self.places, 0)]
        return Misfits(places=np.where(self.places >= 0, places, np.int32(-1)), texts=self.texts)


def merged(one: Misfits | None, other: Misfits) -> Misfits:
    """Those of the same rows, known from two readings of different columns."""
    if one is None:
        return other
    places = np.where(one.places >= 0, one.places, other.places)
    texts = {
        name: pc.coalesce(*(found.texts[name] for found in (one, other) if name in found.texts))
        for name in dict.fromkeys([*one.texts, *other.texts])
    }
    return Misfits(places=places, texts=texts)


def of_parts(parts: Sequence[tuple[Misfits | None, int]]) -> Misfits | None:
    """Those of rows that follow each other; None if all of them fit.

    Args:
        parts: Of each part, and how many rows it has.
    """
    found = [part for part, _ in parts if part is not None]
    if not found:
        return None
    names = dict.fromkeys(name for part in found for name in part.texts)
    return Misfits(
        places=np.concatenate([np.full(rows, -1, np.int32) if part is None else part.places for part, rows in parts]),
        texts={
            name: pa.concat_arrays(
                [
                    pa.nulls(rows, pa.string()) if part is None or name not in part.texts else part.texts[name]
                    for part, rows in parts
                ]
            )
            for name in names
        },
    )


def require_whole_keys(misfits: Misfits | None, schema: TableSchema) -> None:
    """Refuses values of a key that do not fit: without a key a row cannot even be parked.

    Raises:
        SchemaMismatch: names the column.
    """
    if misfits is None or not schema.key:
        return
    broken = np.isin(misfits.places, [schema.names.index(name) for name in schema.key])
    if not broken.any():
        return
    column = schema.names[int(misfits.places[broken][0])]
    raise SchemaMismatch(
        f"Column {column} of the key of {schema.table} holds a value that its type has no place for in Arrow"
        " (infinity, or NaN in a numeric of fixed precision).",
        remedy=f"Have the column carried as text: add text_columns={schema.table.table}.{column} to the source's URL,"
        " and run with a new log.",
        table=str(schema.table),
        column=column,
    )
