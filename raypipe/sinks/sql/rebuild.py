"""Widens a SQLite table: columns are added in place, a wider type means copying the table into a new one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from raypipe.sinks.nested import is_nested
from raypipe.sinks.sql.nested_text import nested_text, nested_values, same_text

_NEW = "raypipe_widened"
_TEXTS = "raypipe_texts"  # temporary: the texts that lists and structs get
_ID = "_raypipe_id"  # its rows' ids; no column of a table can be called that
_TEXT_ROWS = 65_536


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
    rewritten = _rewritten(table.name, before, after, cursor, quoting)
    columns = ", ".join(quoted(field.name) for field in before)
    values = ", ".join(
        f"(SELECT r.{quoted(field.name)} FROM temp.{_TEXTS} AS r WHERE r.{_ID} = t._rowid_)"
        if field.name in rewritten
        else _converted(f"t.{quoted(field.name)}", field.type, after.field(field.name).type)
        for field in before
    )
    # In SQLite's own order (https://www.sqlite.org/lang_altertable.html, section 7): renaming the new table instead of
    # the old one leaves views that name it alone.
    new = table.to_metadata(sa.MetaData(), name=_NEW)
    return [
        str(CreateTable(new).compile(dialect=quoting)),
        f"INSERT INTO {quoted(_NEW)} ({columns}) SELECT {values} FROM {name} AS t",
        *([f"DROP TABLE temp.{_TEXTS}"] if rewritten else []),
        f"DROP TABLE {name}",
        f"ALTER TABLE {quoted(_NEW)} RENAME TO {name}",
        *indexes,
    ]


def _rewritten(table: str, before: pa.Schema, after: pa.Schema, cursor: Any, quoting: sa.Dialect) -> list[str]:
    """Puts the wider texts of lists and structs into a temporary table, where they differ; returns their columns.

    No statement of SQLite could rewrite them. Rows are read in the order of their ids, a batch at a time.
    """
    nested = [field for field in before if is_nested(field.type)]
    changed = [field for field in nested if not same_text(field.type, after.field(field.name).type)]
    if not changed:
        return []
    quoted = quoting.identifier_preparer.quote_identifier
    names = ", ".join(quoted(field.name) for field in changed)
    cursor.execute(f"CREATE TEMPORARY TABLE {_TEXTS} ({_ID} INTEGER PRIMARY KEY, {names})")
    # The driver takes a column's type from its first row, so that one is a sample.
    samples = ", ".join("''" for _ in changed)
    read = f"SELECT _rowid_, {names} FROM {quoted(table)} WHERE _rowid_ > ? ORDER BY _rowid_ LIMIT {_TEXT_ROWS}"
    last = -(2**63)
    while True:
        cursor.execute(f"SELECT 0, {samples} UNION ALL SELECT * FROM ({read})", (last,))
        ids, *texts = cursor.fetch_arrow_table().slice(1).columns
        if not len(ids):
            return [field.name for field in changed]
        last = ids[-1].as_py()
        columns = {_ID: ids}
        for field, text in zip(changed, texts, strict=True):
            wide = after.field(field.name).type
            columns[field.name] = nested_text(nested_values(text.combine_chunks(), field.type).cast(wide))
        cursor.adbc_ingest(_TEXTS, pa.table(columns), mode="append", temporary=True)


def _converted(value: str, before: pa.DataType, after: pa.DataType) -> str:
    """Only decimals look different when wider: they have all their decimal places."""
    if not pa.types.is_decimal(after) or before == after:
        return value
    have = before.scale if pa.types.is_decimal(before) else 0
    point = "." if have == 0 and after.scale > 0 else ""
    return f"CAST({value} AS TEXT) || '{point}{'0' * (after.scale - have)}'"
