"""Tables: their names, columns, keys and schema versions."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True, order=True)
class TableName:
    """A table of an instance, or the relation a step makes (then ``instance`` is empty and ``schema`` too)."""

    instance: str
    schema: str
    table: str

    def __str__(self) -> str:
        """The name that users write in SQL: ``instance.table``, or ``step``."""
        return f"{self.instance}.{self.table}" if self.instance else self.table

    def topic(self, prefix: str) -> str:
        """The table's topic in the log: ``<prefix>.<instance>.<schema>.<table>``."""
        return f"{prefix}.{self.instance}.{self.schema}.{self.table}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its Arrow type on the way, and the type its database declared (text, for people and sinks)."""

    name: str
    type: pa.DataType
    declared: str = ""


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """Columns and key of a table at one schema version.

    Attributes:
        table: Whose schema this is.
        columns: In the table's order; system columns (``raypipe.model.change``) are not among them.
        key: Names of the columns that identify a row, in key order. Empty: the table is a multiset, a row is
            identified only by all of its values, and deletes carry a full image.
        version: Counts the schemas of this table, from 1.
        branches: How many UNION ALL branches feed the relation; above 1 its batches carry ``BRANCH`` and a row is
            identified by (branch, key).
        key_only: Whether the image of a row that goes may hold nothing but its key. Known when a pipeline is planned;
            batches do not carry it.
    """

    table: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    version: int = 1
    branches: int = 1
    key_only: bool = field(default=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    def arrow(self) -> pa.Schema:
        """The Arrow schema of the columns alone, all nullable."""
        return pa.schema([pa.field(column.name, column.type) for column in self.columns])
