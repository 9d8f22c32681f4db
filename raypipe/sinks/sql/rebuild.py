"""Widens a SQLite table: columns are added in place, a wider type means copying the table into a new one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from raypipe.errors import SchemaMismatch
from raypipe.sinks.nested import is_nested
from raypipe.sinks.sql.nested_text import same_text

_NEW = "raypipe_widened"


def rebuilding(table: sa.Table, before: pa.Schema, after: pa.Schema, cursor: Any, quoting: sa.Dialect) -> list[str]:
    """The statements, in order.

    Args:
        table: As it shall be.
        before: Stored types of the columns there are.
        after: Stored types wanted; begins with the columns of ``before``.
        cursor: To ask for the table's indexes, which go with the old table and are made again.
        quoting: SQLite's.

    Raises:
        SchemaMismatch: a list or a struct would have another text.
    """
    quoted = quoting.identifier_preparer.quote_identifier
    name = quoted(table.name)
    _refuse_other_texts(table.name, before, after)
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


def _refuse_other_texts(table: str, before: pa.Schema, after: pa.Schema) -> None:
    """What lists hold cannot be rewritten by a statement of SQLite, so their texts must do as they are."""
    for field in before:
        wide = after.field(field.name).type
        if is_nested(field.type) and not same_text(field.type, wide):
            raise SchemaMismatch(
                f"Column {field.name} of {table} in SQLite holds {field.type} as JSON text, and as {wide} its text "
                "would be another.",
                remedy="Cast it in the step's SQL to the type the table has, or change the step so that it is loaded "
                "again.",
                table=table,
                column=field.name,
            )


def _converted(value: str, before: pa.DataType, after: pa.DataType) -> str:
    """Only decimals look different when wider: they have all their decimal places."""
    if not pa.types.is_decimal(after) or before == after:
        return value
    have = before.scale if pa.types.is_decimal(before) else 0
    point = "." if have == 0 and after.scale > 0 else ""
    return f"CAST({value} AS TEXT) || '{point}{'0' * (after.scale - have)}'"
