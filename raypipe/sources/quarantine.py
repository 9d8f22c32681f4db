"""The table in which an instance keeps rows that do not fit their columns' types; the same for every kind of source."""

from __future__ import annotations

import pyarrow as pa

from raypipe.model import Column, TableName, TableSchema

QUARANTINE = "_raypipe_quarantine"


def quarantine_schema(instance: str, schema: str, *, text: str, json: str) -> TableSchema:
    """Of the instance's table ``_raypipe_quarantine``.

    Args:
        instance: Name.
        schema: Of the instance's database that the table is said to be in.
        text: The database's type for text.
        json: Its type for JSON, which the whole row is.
    """
    columns = {"table_name": text, "row_key": text, "column_name": text, "reason": text, "row": json}
    return TableSchema(
        table=TableName(instance, schema, QUARANTINE),
        columns=tuple(Column(name=name, type=pa.string(), declared=declared) for name, declared in columns.items()),
        key=("table_name", "row_key"),
    )
