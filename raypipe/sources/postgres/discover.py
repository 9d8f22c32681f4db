"""Lists the tables of a PostgreSQL database, with what keeps some of them from being captured."""

from __future__ import annotations

from contextlib import closing

from raypipe.errors import SchemaMismatch
from raypipe.sources.discover import FoundTable
from raypipe.sources.postgres.address import parse_address
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.schema import find_tables, path_of, table_names


def tables_of(url: str) -> list[FoundTable]:
    """See ``raypipe.sources.discover``; those of the schema ``public`` first, and the first few hundred at most."""
    with closing(Session(parse_address("database", url), "look")) as session:
        found: dict[str, FoundTable] = {}
        for name in table_names(session):
            table = _table(session, name)
            twin = found.setdefault(table.local, table)
            if twin is not table:
                why = f"{name} would be called in SQL what {twin.name} is; read it as another source."
                found[name] = FoundTable(name=name, refused=why, has_schema=True)
        return list(found.values())


def _table(session: Session, name: str) -> FoundTable:
    try:
        table = find_tables(session, "database", [path_of(name)])[path_of(name)]
    except SchemaMismatch as error:
        return FoundTable(name=name, refused=error.message, has_schema=True)
    columns = tuple(field.name for field in table.fields)
    return FoundTable(name=name, columns=columns, key=table.key, has_schema=True)
