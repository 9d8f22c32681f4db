"""Lists the tables of a SQLite file, with what keeps some of them from being captured."""

from __future__ import annotations

import sqlite3

from raypipe.errors import SchemaMismatch
from raypipe.sources.discover import FoundTable
from raypipe.sources.sqlite.connect import inspecting, path_of
from raypipe.sources.sqlite.schema import find_tables, read_shape


def tables_of(url: str) -> list[FoundTable]:
    """See ``raypipe.sources.discover``."""
    with inspecting(path_of(url)) as connection:
        return [_table(connection, name) for name in find_tables(connection)]


def _table(connection: sqlite3.Connection, name: str) -> FoundTable:
    try:
        shape = read_shape(connection, name)
    except SchemaMismatch as error:
        return FoundTable(name=name, refused=error.message)
    return FoundTable(name=name, columns=shape.names, key=shape.key) if shape else FoundTable(name=name)
