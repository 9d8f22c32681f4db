"""The captured tables under the shapes that they had in the course of the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Column, Image, Op, TableName, TableSchema
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.decode import SentColumn, Shape, shape_of
from raypipe.sources.postgres.events import Relation
from raypipe.sources.postgres.schema import Table, find_tables, fingerprint, path_of
from raypipe.sources.postgres.types import TYPES_SQL, Catalog

Columns = Sequence[tuple[str, int, int]]


class Captured:
    """What is known of the chosen tables, and how their rows become Arrow.

    Args:
        instance: Name.
        paths: Chosen tables, as ``schema.table``.
        session: To read the catalog with; its address says which columns are to be carried as text.
    """

    def __init__(self, instance: str, paths: Sequence[str], session: Session) -> None:
        self._as_text = text_columns(session.address.text_columns)
        self._instance = instance
        self._paths = tuple(paths)
        self._session = session
        self.catalog = Catalog(session.rows(TYPES_SQL))
        self.tables: Mapping[str, Table] = find_tables(session, instance, self._paths)
        # By the relation's number in the stream; what is not in it is not captured.
        self.shapes: dict[int, Shape] = {}
        # The newest schema that each table had, also when the table is gone.
        self.schemas: dict[str, TableSchema] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """Chosen, whether they exist or not."""
        return self._paths

    def look(self) -> Mapping[str, Table]:
        """Reads the catalog again; returns what was known before."""
        return self.look_with(self._session)

    def look_with(self, session: Session) -> Mapping[str, Table]:
        """Reads the catalog as the transaction of another session sees it; returns what was known before."""
        before = self.tables
        self.tables = find_tables(session, self._instance, self._paths)
        return before

    def schema(self, table: Table, version: int) -> TableSchema:
        """The schema of a table as the catalog has it."""
        return self._schema(table.schema, table.name, table.columns, table.key, version, table)

    def shape(self, table: Table, version: int) -> Shape:
        """How rows of a table, as the catalog has it, are decoded."""
        return self._shape(self.schema(table, version), table.columns, table)

    def follow(self, relation: Relation, version: int) -> Shape:
        """Decodes the relation's rows from here on under this shape."""
        columns = columns_of(relation)
        table = self.tables.get(f"{relation.schema}.{relation.table}")
        key = self.key_of(relation)
        schema = self._schema(relation.schema, relation.table, columns, key, version, table)
        shape = self._shape(schema, columns, table)
        self.shapes[relation.oid] = shape
        return shape

    def print_of(self, relation: Relation) -> str:
        """Fingerprint of the shape that a relation has from here on."""
        return self.print_for(f"{relation.schema}.{relation.table}", columns_of(relation), self.key_of(relation))

    def print_now(self, table: Table) -> str:
        """Fingerprint of the shape that the catalog says a table has."""
        return self.print_for(table.path, table.columns, table.key)

    def print_for(self, path: str, columns: Columns, key: Sequence[str]) -> str:
        """Fingerprint of columns and a key."""
        names = [name for name, _, _ in columns]
        return fingerprint(columns, key, self._as_text.get(path, frozenset()).intersection(names))

    def key_of(self, relation: Relation) -> tuple[str, ...]:
        """The key of a relation in the stream, in the catalog's order if it still is the catalog's."""
        names = {column.name for column in relation.columns}
        table = self.tables.get(f"{relation.schema}.{relation.table}")
        named = tuple(column.name for column in relation.columns if column.in_identity)
        if table is not None and set(table.key) <= names and (relation.identity == "f" or set(named) == set(table.key)):
            return table.key
        return () if relation.identity == "f" else named

    def _schema(
        self,
        schema: str,
        name: str,
        columns: Columns,
        key: Sequence[str],
        version: int,
        table: Table | None,
    ) -> TableSchema:
        if any(not self.catalog.knows(type_oid) for _, type_oid, _ in columns):
            self.catalog = Catalog(self._session.rows(TYPES_SQL))
        kinds = [column.kind(self.catalog) for column in self.sent(f"{schema}.{name}", columns, table)]
        found = TableSchema(
            table=TableName(self._instance, schema, name),
            columns=tuple(
                Column(name=column, type=kind.type, declared=kind.declared)
                for (column, _, _), kind in zip(columns, kinds, strict=True)
            ),
            key=tuple(key),
            version=version,
            key_only=bool(key) and table is not None and table.identity != "f",
        )
        self.schemas[f"{schema}.{name}"] = found
        return found

    def _shape(self, schema: TableSchema, columns: Columns, table: Table | None) -> Shape:
        path = f"{schema.table.schema}.{schema.table.table}"
        return shape_of(schema, self.sent(path, columns, table), self.catalog)

    def sent(self, path: str, columns: Columns, table: Table | None) -> list[SentColumn]:
        """Columns of a table as the server sends them."""
        dimensions = {field.name: field.dimensions for field in table.fields} if table is not None else {}
        as_text = self._as_text.get(path, frozenset())
        return [
            SentColumn(
                name=name,
                type_oid=type_oid,
                typmod=typmod,
                dimensions=dimensions.get(name, 0),
                as_text=name in as_text,
            )
            for name, type_oid, typmod in columns
        ]


def text_columns(names: Sequence[str]) -> dict[str, frozenset[str]]:
    """Columns to be carried as text, by ``schema.table``; given as ``table.column`` or ``schema.table.column``."""
    found: dict[str, frozenset[str]] = {}
    for name in names:
        table, _, column = name.rpartition(".")
        path = path_of(table)
        found[path] = found.get(path, frozenset()) | {column}
    return found


def columns_of(relation: Relation) -> tuple[tuple[str, int, int], ...]:
    """Name, type and modifier of each column of a relation in the stream."""
    return tuple((column.name, column.type_oid, column.typmod) for column in relation.columns)


def truncate_batch(schema: TableSchema, commit: int, ordinal: int, time_us: int | None) -> ChangeBatch:
    """The change that empties a table."""
    shape = ChangeBatch.arrow_schema(schema)
    system = {OP: int(Op.TRUNCATE), IMAGE: int(Image.FULL), COMMIT: commit, ORDINAL: ordinal, TIME: time_us}
    arrays = [pa.array([system.get(field.name)], field.type) for field in shape]
    return ChangeBatch(schema, pa.RecordBatch.from_arrays(arrays, schema=shape))


def read_batch(schema: TableSchema, columns: Sequence[pa.Array], commit: int, ordinal: int) -> ChangeBatch:
    """Rows as a snapshot found them; all of a load at one place in the order."""
    count = len(columns[0]) if columns else 0
    system = [
        pa.array(np.full(count, int(Op.READ), np.int8)),
        pa.array(np.full(count, int(Image.FULL), np.int8)),
        pa.array(np.full(count, commit, np.int64)),
        pa.array(np.full(count, ordinal, np.int64)),
        pa.nulls(count, pa.timestamp("us", tz="UTC")),
    ]
    rows = pa.RecordBatch.from_arrays([*system, *columns], schema=ChangeBatch.arrow_schema(schema))
    return ChangeBatch(schema, rows)
