"""Values of a key that their column's Arrow type cannot hold: without a key a row cannot even be parked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raypipe.errors import SchemaMismatch
from raypipe.model import TableSchema


def require_whole_keys(misfits: npt.NDArray[np.int32] | None, schema: TableSchema) -> None:
    """Refuses values of a key that do not fit.

    Args:
        misfits: For each row the place of its first column that does not fit, -1 if all do; None if all do.
        schema: Of the rows.

    Raises:
        SchemaMismatch: names the column.
    """
    if misfits is None or not schema.key:
        return
    broken = np.isin(misfits, [schema.names.index(name) for name in schema.key])
    if not broken.any():
        return
    column = schema.names[int(misfits[broken][0])]
    raise SchemaMismatch(
        f"Column {column} of the key of {schema.table} holds a value that its type has no place for in Arrow"
        " (infinity, or NaN in a numeric of fixed precision).",
        remedy=f"Have the column carried as text: add text_columns={schema.table.table}.{column} to the source's URL,"
        " and run with a new log.",
        table=str(schema.table),
        column=column,
    )
