"""Follows the shapes of the captured tables: columns that come, go, are renamed or retyped, tables made anew.

A Relation message says where in the stream a table's shape changes; the catalog says what the change was. Whether the
rows that were there before must be loaded again depends on the change:

| change | rows again? |
|---|---|
| column dropped | no |
| column added without a default | no: it is NULL in every row that does not say otherwise |
| column added with a default, renamed, of another type; another key; rows rewritten | yes |
| table dropped and made again | yes; if not made again, it is emptied |
| change that happened while nobody looked | yes |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raypipe.model import TableSchema
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.events import Relation
from raypipe.sources.postgres.install import publish
from raypipe.sources.postgres.position import Known, Position
from raypipe.sources.postgres.schema import Table
from raypipe.sources.postgres.snapshot import current_moment


class Evolution:
    """What happened to the tables' shapes since the reader began.

    Args:
        instance: Name.
        session: For the catalog.
        captured: The chosen tables.
    """

    def __init__(self, instance: str, session: Session, captured: Captured) -> None:
        self._instance = instance
        self._session = session
        self._captured = captured
        self._versions: dict[tuple[str, str], int] = {}  # of each shape of a table that was seen
        self._harmless: set[tuple[str, str]] = set()  # shapes that need no rows again
        self._again: set[str] = set()  # tables whose rows are needed again, told by the next look
        self._oids: dict[str, int] = {path: table.oid for path, table in captured.tables.items()}
        self.wants_look = False

    def known_as(self, path: str, fingerprint: str, known: Known | None) -> Known:
        """The version that a shape has, the next one if it is new."""
        if known is not None:
            self._versions.setdefault((path, known.print), known.version)
        version = self._versions.get((path, fingerprint))
        if version is None:
            version = max((number for (of, _), number in self._versions.items() if of == path), default=0) + 1
            self._versions[path, fingerprint] = version
        return Known(version=version, print=fingerprint)

    def last_schema(self, path: str, known: Known | None) -> TableSchema | None:
        """The schema of a table that is gone, None if nothing of it ever went into the log."""
        return self._captured.schemas.get(path) if known is not None else None

    def follow(self, relation: Relation, position: Position) -> tuple[Position, dict[str, int]]:
        """Takes a Relation message; returns the position with the version, and tables to be loaded again."""
        path = f"{relation.schema}.{relation.table}"
        if path not in self._captured.paths:
            return position, {}
        known = position.tables.get(path)
        fingerprint = self._captured.print_of(relation)
        table = self._captured.tables.get(path)
        if (
            known is not None
            and known.print != fingerprint
            and (table is None or self._captured.print_now(table) != fingerprint)
        ):
            self._again |= self._classify(self._captured.look())
            self.wants_look = True
            fingerprint = self._captured.print_of(relation)
        first_seen = (path, fingerprint) not in self._versions
        now = self.known_as(path, fingerprint, known)
        self._captured.follow(relation, now.version)
        if known is None or now == known:
            return position, {}
        position = _with_known(position, path, now)
        if not first_seen or (path, fingerprint) in self._harmless or path in position.loading:
            # While it is loading, its chunks are read under the newest shape, and older rows are dropped as seen.
            return position, {}
        return position, {path: current_moment(self._session).xmax}

    def note(self, before: Mapping[str, Table]) -> None:
        """The catalog was read for a copy: what changed is told by the next look."""
        again = self._classify(before)
        if again or set(before) != set(self._captured.tables):
            self._again |= again
            self.wants_look = True

    def look(self, position: Position) -> tuple[Position, dict[str, int]]:
        """Reads the catalog; returns tables to be loaded again, or emptied because they are gone."""
        self.wants_look = False
        before = self._captured.look()
        restart, self._again = self._classify(before) | self._again, set()
        anew = {
            path: table
            for path, table in self._captured.tables.items()
            if self._oids.get(path) != table.oid or path not in position.tables
        }
        gone = {path for path in position.tables if path in self._oids and path not in self._captured.tables}
        if anew:
            publish(self._session, self._instance, anew)
            self._oids.update({path: table.oid for path, table in anew.items()})
        for path in gone:
            del self._oids[path]
        again = (restart | anew.keys() | gone) & (position.tables.keys() | anew.keys())
        if not again:
            return position, {}
        since = current_moment(self._session).xmax
        return position, dict.fromkeys(again, since)

    def _classify(self, before: Mapping[str, Table]) -> set[str]:
        """Tables of which rows are needed again, by what the catalog said before and says now."""
        again = set()
        for path, table in self._captured.tables.items():
            old = before.get(path)
            if old is None or old == table or old.oid != table.oid:
                continue
            if _needs_rows(old, table):
                again.add(path)
            else:
                self._harmless.add((path, self._captured.print_now(table)))
        return again


def _needs_rows(old: Table, new: Table) -> bool:
    numbers = {field.number: field for field in old.fields}
    if old.key != new.key:
        return True
    for field in new.fields:
        known = numbers.get(field.number)
        if known is None:
            if field.missing or old.file != new.file:
                return True
        elif (known.name, known.type_oid) != (field.name, field.type_oid) or (
            old.file != new.file and known.typmod != field.typmod
        ):
            return True
    return False


def _with_known(position: Position, path: str, known: Known) -> Position:
    return replace(position, tables={**position.tables, path: known})
