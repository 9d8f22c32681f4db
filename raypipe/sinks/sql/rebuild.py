"""Widens a SQLite table: columns are added in place, a wider type means copying the table into a new one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

_NEW = "raypipe_widened"


def rebuilding(table: sa.Table, before: pa.Schema, after: pa.Schema, cursor: Any, quoting: sa.Dialect) -> list[str]:
    """The statements, in order.

    Args:
        table: As it shall be.
        before: Stored types of the columns there are.
        after: Stored types wanted; begins with the columns of ``before``.
        cursor: To ask for the table's indexes, which go with the old table and are made again.
        quoting: SQLite's.
    """
    quoted = quoting.identifier_preparer.quote_identifier
    name = quoted(table.name)
    if all(after.field(field.name).type == field.type for field in before):
        declared = {column.name: column.type.compile(quoting) for column in table.columns}
        added = [field.name for field in after if field.name not in before.names]
        return [f"ALTER TABLE {name} ADD COLUMN {quoted(column)} {declared[column]}" for column in added]
    cursor.execute(
        "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (table.name,)
    )
    indexes = [sql for (sql,) in cursor.fetchall()]
    columns = ", ".join(quoted(field.name) for field in before)
    values = ", ".join(_converted(quoted(field.name), field.type, after.field(field.name).type) for field in before)
    # In SQLite's own order (https://www.sqlite.org/lang_altertable.html, section 7): renaming the new table instead of
    # the old one leaves views that name it alone.
    new = table.to_metadata(sa.MetaData(), name=_NEW)
    return [
        str(CreateTable(new).compile(dialect=quoting)),
        f"INSERT INTO {quoted(_NEW)} ({columns}) SELECT {values} FROM {name}",
        f"DROP TABLE {name}",
        f"ALTER TABLE {quoted(_NEW)} RENAME TO {name}",
        *indexes,
    ]


def _converted(value: str, before: pa.DataType, after: pa.DataType) -> str:
    """Only decimals look different when wider: they have all their decimal places."""
    if not pa.types.is_decimal(after) or before == after:
        return value
    have = before.scale if pa.types.is_decimal(before) else 0
    point = "." if have == 0 and after.scale > 0 else ""
    return f"CAST({value} AS TEXT) || '{point}{'0' * (after.scale - have)}'"
