"""Reads what the catalog says of the chosen tables: columns, keys, replica identities, partitions."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from raypipe.errors import SchemaMismatch
from raypipe.model import RESERVED_PREFIX
from raypipe.sources.postgres.connect import Session, literal, quoted

DEFAULT_SCHEMA = "public"

# pg_class.relreplident
IDENTITIES = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL", "i": "USING INDEX"}

_TABLES_SQL = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
  greatest(c.reltuples, 0)::float8, (c.relpages::int8 * current_setting('block_size')::int8), c.relfilenode::int8,
  CASE WHEN c.relkind = 'p' THEN (
    SELECT string_agg(DISTINCT l.relreplident::text, '') FROM pg_partition_tree(c.oid) t
    JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf) END,
  CASE WHEN c.relkind = 'p' THEN (
    SELECT string_agg(l.oid::int8 || ':' || l.relfilenode::int8, ',') FROM pg_partition_tree(c.oid) t
    JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf AND l.relkind <> 'p') END,
  CASE WHEN c.relkind = 'p' THEN (
    SELECT string_agg(DISTINCT l.xmin::text, ',') FROM pg_partition_tree(c.oid) t
    JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf AND l.relkind <> 'p') ELSE c.xmin::text END,
  (SELECT string_agg(DISTINCT a.xmin::text, ',') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN ({names})"""

_COLUMNS_SQL = """
SELECT a.attrelid::int8, a.attname::text, a.atttypid::int8, a.atttypmod, a.attndims::int4, a.attnum::int4,
  a.atthasmissing OR (c.relkind = 'p' AND EXISTS (
    SELECT FROM pg_partition_tree(c.oid) p JOIN pg_attribute l ON l.attrelid = p.relid
    WHERE p.isleaf AND l.attname = a.attname AND l.atthasmissing)),
  a.attgenerated <> '', quote_ident(n.nspname) || '.' || quote_ident(t.typname),
  (SELECT quote_ident(m.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l
   JOIN pg_namespace m ON m.oid = l.collnamespace WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid IN ({oids}) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"""

_KEYS_SQL = """
SELECT i.indrelid::int8, i.indisprimary, i.indisreplident, a.attname::text
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid IN ({oids}) AND (i.indisprimary OR i.indisreplident) AND k.place <= i.indnkeyatts
ORDER BY i.indexrelid, k.place"""

_OTHERS_SQL = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_' ORDER BY n.nspname <> 'public', 1, 2 LIMIT 200"""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column that is captured.

    Attributes:
        name: As the catalog has it.
        type_oid: Of its type.
        typmod: Length or precision as the server encodes it, -1 for none.
        dimensions: Declared for an array, 0 for anything else.
        type_sql: The type's name as SQL, without length or precision.
        number: Of the attribute, never used again in the table.
        missing: Rows written before it was added show a default that is not in them.
    """

    name: str
    type_oid: int
    typmod: int
    dimensions: int
    type_sql: str
    number: int
    missing: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be captured, as the catalog has it now.

    Attributes:
        oid: Of the relation.
        schema: Its schema.
        name: Its name.
        fields: Captured columns in order; generated ones are not published and so are not among them.
        key: Columns by which the server names changed rows; empty for a table that is a multiset.
        identity: Replica identity: ``d``, ``f`` or ``i``.
        partitioned: The root of partitions.
        estimated_rows: By the planner's statistics.
        bytes: On disk, without indexes; 0 for a partitioned table.
        file: Number of the file that holds the rows: another one means that they were rewritten.
        collations: Of columns that have another one than their type.
        partitions: OID and file of each partition that holds rows.
        filed_by: Transactions that wrote the entries of the table, or of its partitions, into the catalog, and so gave
            them these files or came after who did.
        shaped_by: Transactions that wrote the entries of its columns.
    """

    oid: int
    schema: str
    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    identity: str
    partitioned: bool
    estimated_rows: float
    bytes: int
    file: int
    collations: Mapping[str, str] = dataclass_field(default_factory=dict)
    partitions: tuple[tuple[int, int], ...] = ()
    filed_by: frozenset[int] = frozenset()
    shaped_by: frozenset[int] = frozenset()

    @property
    def path(self) -> str:
        """``schema.table``."""
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """As SQL; for a table with children by inheritance it means the table alone."""
        name = f"{quoted(self.schema)}.{quoted(self.name)}"
        return name if self.partitioned else f"ONLY {name}"

    @property
    def columns(self) -> tuple[tuple[str, int, int], ...]:
        """Name, type and modifier of each column."""
        return tuple((field.name, field.type_oid, field.typmod) for field in self.fields)


def fingerprint(columns: Sequence[tuple[str, int, int]], key: Sequence[str], as_text: Collection[str]) -> str:
    """A short text that differs when columns, key, or which columns are carried as text differ."""
    described = (tuple(columns), tuple(key), sorted(as_text))
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def path_of(name: str) -> str:
    """``schema.table`` of a table as the pipeline file writes it: without a schema it is in ``public``."""
    return name if "." in name else f"{DEFAULT_SCHEMA}.{name}"


def find_tables(session: Session, instance: str, paths: Sequence[str]) -> dict[str, Table]:
    """The tables that exist, by path; the others are left out.

    Raises:
        SchemaMismatch: one exists and cannot be captured.
    """
    if not paths:
        return {}
    names = ", ".join(
        f"({literal(schema)}, {literal(table)})" for schema, _, table in (p.partition(".") for p in paths)
    )
    found = session.rows(_TABLES_SQL.format(names=names))
    if not found:
        return {}
    oids = ", ".join(str(row[0]) for row in found)
    fields: dict[int, list[Field]] = {}
    collations: dict[int, dict[str, str]] = {}
    for oid, name, type_oid, typmod, dimensions, number, missing, generated, type_sql, collation in session.rows(
        _COLUMNS_SQL.format(oids=oids)
    ):
        if collation:
            collations.setdefault(oid, {})[name] = collation
        if not generated:
            fields.setdefault(oid, []).append(
                Field(
                    name=name,
                    type_oid=type_oid,
                    typmod=typmod,
                    dimensions=dimensions,
                    type_sql=type_sql,
                    number=number,
                    missing=missing,
                )
            )
    primary: dict[int, list[str]] = {}
    chosen: dict[int, list[str]] = {}
    for oid, is_primary, is_identity, column in session.rows(_KEYS_SQL.format(oids=oids)):
        for keys in ([primary] if is_primary else []) + ([chosen] if is_identity else []):
            keys.setdefault(oid, []).append(column)
    tables = {}
    for oid, schema, name, kind, persistence, identity, rows, size, file, leaves, files, filers, shapers in found:
        path = f"{schema}.{name}"
        _require_capturable(instance, path, kind, persistence)
        carried = _identity(instance, path, identity, leaves)
        key = chosen.get(oid, []) if carried == "i" else primary.get(oid, [])
        tables[path] = Table(
            oid=oid,
            schema=schema,
            name=name,
            fields=tuple(fields.get(oid, [])),
            key=tuple(key),
            identity=carried,
            partitioned=kind == "p",
            estimated_rows=rows,
            bytes=size,
            file=file,
            collations=collations.get(oid, {}),
            partitions=tuple(_pair(part) for part in files.split(",")) if files else (),
            filed_by=_numbers(filers),
            shaped_by=_numbers(shapers),
        )
        _require_identity(instance, tables[path])
    return tables


def _numbers(text: str | None) -> frozenset[int]:
    return frozenset(map(int, text.split(","))) if text else frozenset()


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition(":")
    return int(first), int(second)


def require_tables(session: Session, instance: str, paths: Sequence[str]) -> dict[str, Table]:
    """The tables by path, in the given order.

    Raises:
        SchemaMismatch: one is missing (the message lists those that exist) or cannot be captured.
    """
    tables = find_tables(session, instance, paths)
    missing = [path for path in paths if path not in tables]
    if missing:
        raise _no_table(session, instance, missing[0])
    return {path: tables[path] for path in paths}


def table_names(session: Session) -> list[str]:
    """Tables that this user may see, as a pipeline file writes them; the first 200."""
    return [table if schema == DEFAULT_SCHEMA else f"{schema}.{table}" for schema, table in session.rows(_OTHERS_SQL)]


def _no_table(session: Session, instance: str, path: str) -> SchemaMismatch:
    others = table_names(session)
    name = path.removeprefix(f"{DEFAULT_SCHEMA}.")
    near = difflib.get_close_matches(name, others, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return SchemaMismatch(
        f"Source {instance!r} has no table {name!r}.",
        remedy=f"{meant} It has: {', '.join(others[:40]) or 'none that this user may see'}.".strip(),
        table=name,
    )


def _require_capturable(instance: str, path: str, kind: str, persistence: str) -> None:
    kinds = {"v": "a view", "m": "a materialised view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
    what = kinds.get(kind) or {"u": "an unlogged table", "t": "a temporary table"}.get(persistence)
    if kind not in ("r", "p") or persistence != "p":
        raise SchemaMismatch(
            f"{path} of source {instance!r} is {what or 'no table'}, whose changes PostgreSQL does not record.",
            remedy="Capture the tables below it, or ALTER TABLE … SET LOGGED.",
            table=path,
        )


def _identity(instance: str, path: str, own: str, leaves: str | None) -> str:
    """The replica identity that changes come with: for partitions, that of the partitions, which must agree."""
    if leaves is None or leaves == "":
        return own
    if len(leaves) > 1:
        raise SchemaMismatch(
            f"The partitions of {path} in source {instance!r} have different replica identities.",
            remedy="Set the same for all of them: ALTER TABLE … REPLICA IDENTITY FULL (or DEFAULT).",
            table=path,
        )
    return leaves


def _require_identity(instance: str, table: Table) -> None:
    """Without an identity the server would refuse the application's own updates once the table is published."""
    if table.identity == "n" or (table.identity == "d" and not table.key) or (table.identity == "i" and not table.key):
        why = "REPLICA IDENTITY NOTHING" if table.identity == "n" else "neither a primary key nor a replica identity"
        raise SchemaMismatch(
            f"{table.path} of source {instance!r} has {why}: PostgreSQL would not say which rows change,"
            " and would refuse updates and deletes of it once it is captured.",
            remedy=f"ALTER TABLE {quoted(table.schema)}.{quoted(table.name)} REPLICA IDENTITY FULL;"
            " or give it a primary key.",
            table=table.path,
        )
    reserved = [field.name for field in table.fields if field.name.lower().startswith(RESERVED_PREFIX)]
    if reserved:
        raise SchemaMismatch(
            f"Column {reserved[0]} of {table.path} has a name that is raypipe's own.", remedy="Rename it."
        )


def reference(fields: Sequence[str]) -> str:
    """Column names as SQL, separated by commas."""
    return ", ".join(map(quoted, fields))


def by_oid(tables: Mapping[str, Table]) -> dict[int, Table]:
    """The same tables by the number the stream calls them."""
    return {table.oid: table for table in tables.values()}
