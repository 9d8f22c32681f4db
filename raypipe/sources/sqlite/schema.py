"""What a table looks like to the capture: its columns, what identifies a row, and what may conflict with it."""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from raypipe.errors import SchemaMismatch
from raypipe.model import RESERVED_PREFIX, Column, TableName, TableSchema
from raypipe.sources.sqlite.connect import quoted
from raypipe.sources.sqlite.index_sql import parse_index
from raypipe.sources.sqlite.types import kind_of

# The only schema of a SQLite file that raypipe reads; ATTACH is a matter of a connection, not of the file.
SCHEMA = "main"

# Collations every SQLite library has. Any other is code of the application, which raypipe cannot run.
BUILTIN_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column as the table declares it.

    Attributes:
        name: Of the column.
        declared: Type, as text; SQLite allows any, and none.
        droppable: ALTER TABLE might drop it some day, so no trigger may insist on it.
        fallback: SQL of the default that stands in for NULL when a NOT NULL column has one, else empty.
        generated: Computed from others.
    """

    name: str
    declared: str
    droppable: bool
    fallback: str = ""
    generated: bool = False


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of a unique key: a column, or an expression.

    Attributes:
        column: Name, empty for an expression.
        expression: SQL, empty for a column.
        collation: That decides whether two values are one.
    """

    column: str
    expression: str
    collation: str


@dataclass(frozen=True, kw_only=True)
class Unique:
    """A unique key: a row may remove another that is equal in it, by INSERT OR REPLACE.

    Attributes:
        terms: That make it up.
        where: Condition of a partial index, else empty.
        index: Name, if CREATE INDEX made it (DROP INDEX may take it away), else empty.
    """

    terms: tuple[Term, ...]
    where: str = ""
    index: str = ""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """All the capture of a table depends on.

    Attributes:
        table: Name.
        fields: Columns in order, generated ones included.
        key: Primary key, in key order; empty if the table has none.
        identity: Terms that find a row again in a table WITHOUT ROWID, which is its primary key; else empty.
        rowid: A name by which the rowid can be read, empty for a table WITHOUT ROWID.
        stable_rowid: The rowid is the primary key; any other may be renumbered by VACUUM.
        uniques: Keys besides the identity that a row may conflict in.
        cascades: A foreign key to the table itself deletes children with their parents.
        rewritten: What a statement writes to a row may be changed again before our AFTER trigger sees it: by triggers
            of the application, or because a row refers to itself.
    """

    table: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    identity: tuple[Term, ...]
    rowid: str
    stable_rowid: bool
    uniques: tuple[Unique, ...]
    cascades: bool = False
    rewritten: bool = False

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` reads it back."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Shape:
        """Reads what ``to_json`` wrote."""
        parts = json.loads(text)
        parts["fields"] = tuple(Field(**field) for field in parts["fields"])
        parts["key"] = tuple(parts["key"])
        parts["identity"] = tuple(Term(**term) for term in parts["identity"])
        parts["uniques"] = tuple(
            Unique(terms=tuple(Term(**term) for term in each["terms"]), where=each["where"], index=each["index"])
            for each in parts["uniques"]
        )
        return cls(**parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(field.name for field in self.fields)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Names and declared types: what downstream sees of the columns."""
        return tuple((field.name, field.declared) for field in self.fields)

    def schema(self, instance: str, version: int) -> TableSchema:
        """The schema that batches of the table carry."""
        return TableSchema(
            table=TableName(instance, SCHEMA, self.table),
            columns=tuple(
                Column(name=field.name, type=kind_of(field.declared).type, declared=field.declared)
                for field in self.fields
            ),
            key=self.key,
            version=version,
        )


def find_tables(connection: sqlite3.Connection) -> list[str]:
    """Names of the tables that could be captured."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND substr(name, 1, ?) <> ? AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name",
        (len(RESERVED_PREFIX), RESERVED_PREFIX),
    )
    return [name for (name,) in found]


def require_tables(connection: sqlite3.Connection, instance: str, tables: Sequence[str]) -> None:
    """Checks that every chosen table exists.

    Raises:
        SchemaMismatch: one does not; names those that do.
    """
    present = find_tables(connection)
    missing = [table for table in tables if table not in present]
    if missing:
        close = difflib.get_close_matches(missing[0].lower(), [name.lower() for name in present], n=1)
        meant = next((name for name in present if close and name.lower() == close[0]), None)
        raise SchemaMismatch(
            f"Source {instance!r} has no table {', '.join(map(repr, missing))}.",
            remedy=(f"Did you mean {meant!r}? " if meant else "")
            + f"Its tables: {', '.join(present) or 'none'} (views and virtual tables cannot be captured).",
        )


def read_shape(connection: sqlite3.Connection, table: str) -> Shape | None:
    """Reads a table's shape; None if there is no such table.

    Raises:
        SchemaMismatch: the table cannot be captured, with the reason.
    """
    if connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone() is None:
        return None
    columns = connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()
    indexes = connection.execute(f"PRAGMA main.index_list({quoted(table)})").fetchall()
    key = tuple(name for _, name, _, _, _, rank, _ in sorted(columns, key=lambda column: column[5]) if rank)
    terms = {index[1]: _terms(connection, index[1]) for index in indexes if index[2]}
    origin = {index[1]: index[3] for index in indexes}
    primary = next((name for name in terms if origin[name] == "pk"), None)
    # The index that is a WITHOUT ROWID table itself is the only one whose entries do not end with a rowid (cid -1).
    without_rowid = primary is not None and all(
        cid != -1 for _, cid, *_ in connection.execute(f"PRAGMA main.index_xinfo({quoted(primary)})")
    )
    lasting = {term.column for name in terms if origin[name] in ("pk", "u") for term in terms[name]} | set(key)
    fields = tuple(
        Field(
            name=name,
            declared=declared or "",
            droppable=name not in lasting,
            fallback=default if not_null and default is not None else "",
            generated=hidden in (2, 3),
        )
        for _, name, declared, not_null, default, _, hidden in columns
        if hidden != 1
    )
    shape = Shape(
        table=table,
        fields=fields,
        key=key,
        identity=terms[primary] if without_rowid and primary is not None else (),
        rowid="" if without_rowid else _rowid_name(table, [field.name for field in fields], key, primary),
        stable_rowid=bool(key) and primary is None,
        uniques=tuple(
            _unique(connection, name, origin[name], terms[name])
            for name in sorted(terms)
            if not (without_rowid and name == primary)
        ),
        cascades="CASCADE" in _actions_on_itself(connection, table, "on_delete"),
        rewritten=bool(_actions_on_itself(connection, table, "on_update") - {"NO ACTION", "RESTRICT"})
        or _has_foreign_triggers(connection),
    )
    _require_capturable(shape)
    return shape


def require_shape(connection: sqlite3.Connection, table: str) -> Shape:
    """Reads the shape of a table that exists.

    Raises:
        SchemaMismatch: it does not, or cannot be captured.
    """
    shape = read_shape(connection, table)
    if shape is None:
        raise SchemaMismatch(f"There is no table {table!r}.", remedy="Check the tables of the source.")
    return shape


def _terms(connection: sqlite3.Connection, index: str) -> tuple[Term, ...]:
    rows = connection.execute(f"PRAGMA main.index_xinfo({quoted(index)})").fetchall()
    texts: Sequence[str] = ()
    if any(cid == -2 for _, cid, *_ in rows):
        texts = parse_index(_sql_of(connection, index)).terms
    return tuple(
        Term(column=name or "", expression=texts[place] if cid == -2 else "", collation=collation)
        for place, cid, name, _, collation, in_key in rows
        if in_key
    )


def _unique(connection: sqlite3.Connection, name: str, origin: str, terms: tuple[Term, ...]) -> Unique:
    if origin != "c":
        return Unique(terms=terms)
    return Unique(terms=terms, where=parse_index(_sql_of(connection, name)).where, index=name)


def _sql_of(connection: sqlite3.Connection, index: str) -> str:
    return str(connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (index,)).fetchone()[0])


def _actions_on_itself(connection: sqlite3.Connection, table: str, event: str) -> set[str]:
    place = {"on_update": 5, "on_delete": 6}[event]
    return {
        key[place]
        for key in connection.execute(f"PRAGMA main.foreign_key_list({quoted(table)})")
        if key[2].lower() == table.lower()
    }


def _has_foreign_triggers(connection: sqlite3.Connection) -> bool:
    """Whether the application has triggers; on whichever table, they may come back to any other."""
    found = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND substr(name, 1, ?) <> ? LIMIT 1",
        (len(RESERVED_PREFIX), RESERVED_PREFIX),
    )
    return found.fetchone() is not None


def _rowid_name(table: str, names: Sequence[str], key: tuple[str, ...], primary: str | None) -> str:
    if key and primary is None:
        return key[0]  # INTEGER PRIMARY KEY is the rowid under another name
    taken = {name.lower() for name in names}
    for name in ("rowid", "_rowid_", "oid"):
        if name not in taken:
            return name
    raise SchemaMismatch(
        f"Table {table!r} cannot be captured: its columns hide the rowid under all three of its names.",
        remedy="Rename one of the columns rowid, _rowid_ and oid, or give the table an INTEGER PRIMARY KEY.",
    )


def _require_capturable(shape: Shape) -> None:
    reserved = [name for name in shape.names if name.lower().startswith(RESERVED_PREFIX)]
    if reserved or shape.table.lower().startswith(RESERVED_PREFIX):
        raise SchemaMismatch(
            f"Table {shape.table!r} cannot be captured: names that begin with {RESERVED_PREFIX} are raypipe's own.",
            remedy="Rename it.",
        )
    foreign = [term.collation for term in shape.identity if term.collation.upper() not in BUILTIN_COLLATIONS]
    if foreign:
        raise SchemaMismatch(
            f"Table {shape.table!r} cannot be captured: its primary key sorts by {foreign[0]!r}, a collation that only "
            "its application knows.",
            remedy=f"Use one of {', '.join(sorted(BUILTIN_COLLATIONS))}, or a table with a rowid.",
        )
