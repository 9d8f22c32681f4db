"""Follows the forms of the captured tables: columns that come, go, are renamed or retyped, tables made anew.

Every change counts from its place in the stream. Where event triggers tell (``telling``), it is their message's.
Without them, and for what they do not tell, a Relation message says from where on rows have other columns, and a look
at the catalog says what the change was. What a look found may lie behind where the stream stands, so it is judged only
when the stream has passed a watermark written after the look: what is different from what is known *there* was not
told.

What the rows of a table need then is in ``forms``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from raypipe import faults
from raypipe.model import TableSchema
from raypipe.sources.postgres import telling
from raypipe.sources.postgres.backfilling import can_backfill, merged
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.events import Relation
from raypipe.sources.postgres.forms import Needs, emptied, form_of, moved, needs, refiled, retold
from raypipe.sources.postgres.install import publish
from raypipe.sources.postgres.position import Backfill, Form, Known, Position
from raypipe.sources.postgres.schema import Table
from raypipe.sources.postgres.snapshot import current_moment, watermark
from raypipe.sources.postgres.telling import Altered, Dropped, Rewritten, Told

logger = logging.getLogger(__name__)

# The catalog is compared with what is known of the tables this often: without event triggers, and with them.
LOOK_EVERY_S = 1.0
LOOK_TOLD_S = 10.0

_Value = TypeVar("_Value")


@dataclass(kw_only=True)
class _Look:
    """What the catalog said, and the place in the stream behind everything that it had seen."""

    tables: Mapping[str, Table]
    lsn: int
    told: bool


class Evolution:
    """What happened to the tables' forms since the reader began.

    Args:
        instance: Name.
        session: For the catalog.
        captured: The chosen tables.
        told: Event triggers have told of everything since the reader's position.
    """

    def __init__(self, instance: str, session: Session, captured: Captured, *, told: bool) -> None:
        self._instance = instance
        self._session = session
        self._captured = captured
        self._versions: dict[tuple[str, str], int] = {}  # of each shape of a table that was seen
        self._relations: dict[int, Relation] = {}  # as the stream told them last
        self._look: _Look | None = None  # waits for its place
        self._heard: set[str] = set()  # tables that the stream has told something of since that look
        self._rewriting: set[str] = set()  # by the command whose end is told next
        self._looked_at = 0.0
        self.told = told
        self.wants_look = True

    def known_as(self, path: str, table: Table, known: Known | None) -> Known:
        """What is known of a table that is read as the catalog has it: its version is the next one if it is new."""
        return replace(self._version(path, self._captured.print_now(table), known), form=form_of(table))

    def last_schema(self, path: str, known: Known | None) -> TableSchema | None:
        """The schema of a table that is gone, None if nothing of it ever went into the log."""
        return self._captured.schemas.get(path) if known is not None else None

    def published(self, paths: Collection[str]) -> int:
        """Makes sure that the stream has every change of tables whose load begins, whichever tables they are by now.

        Returns:
            Number of the transaction from which on it has; 0 if it had all along.
        """
        self._captured.look()
        tables = {path: self._captured.tables[path] for path in paths if path in self._captured.tables}
        if not tables or not publish(self._session, self._instance, tables):
            return 0
        return current_moment(self._session).xmax

    def replaced(self, table: Table, known: Known | None) -> bool:
        """Whether a table is another one than the stream has under this name where it is read now."""
        return known is not None and known.form is not None and known.form.oid != table.oid

    def begins(self, table: Table, known: Known) -> None:
        """A table is about to be loaded: rows of it, if the stream has told their shape, are of that version.

        Under another name the stream has not come to where it got this one. A load has seen its rows up to there.
        """
        relation = self._relations.get(table.oid)
        if relation is not None and _path(relation) == table.path:
            self._captured.follow(relation, known.version)
        else:
            self._captured.shapes.pop(table.oid, None)

    def outdated(self, table: Table, known: Known | None) -> bool:
        """Whether what was copied of a loading table, the same one, is not what a copy as it is now would be."""
        if known is None or known.form is None:
            return False
        stood = refiled(known.form, table)
        elsewhere = not self.told and moved(stood, table.partitions)
        asked = needs(stood, form_of(table), rewritten=not self.told, elsewhere=elsewhere)
        return asked.load or asked.backfill or bool(asked.parts)

    def stands(self, table: Table, known: Known | None) -> bool:
        """Whether the catalog has a table as the stream has it where it is read now."""
        same = known is not None and known.form is not None and known.form.oid == table.oid
        return same and known is not None and known.print == self._captured.print_now(table)

    # What the stream tells

    def follow(self, relation: Relation, position: Position) -> Position:
        """Takes a Relation message; returns the position with the version of the rows that follow."""
        path = _path(relation)
        self._relations[relation.oid] = relation
        for left in _elsewhere(relation.oid, path, position):
            # It got another's name, or lost the one that was chosen. Should it be back when the catalog is looked at,
            # its rows of meanwhile are missing all the same.
            self.wants_look = True
            position = self._ask(position, left, Needs(load=True))
        known = position.tables.get(path)
        if known is None or (known.form is not None and known.form.oid != relation.oid):
            # Rows of it are nobody's; a load, if it is one that was chosen, begins with a look at what was told here.
            self._captured.shapes.pop(relation.oid, None)
            return position
        version = self._version(path, self._captured.print_of(relation), known)
        self._captured.follow(relation, version.version)
        if version.print == known.print:
            return position
        self._heard.add(path)
        self.wants_look = True
        return _with(position, path, replace(known, version=version.version, print=version.print))

    def emptied(self, path: str, xid: int, position: Position) -> Position:
        """Takes a TRUNCATE by a transaction."""
        known = position.tables.get(path)
        if known is None or known.form is None:
            return position
        self._heard.add(path)  # a look from before found the old file
        return _with(position, path, replace(known, form=emptied(known.form, xid)))

    def hear(self, told: Told, position: Position) -> tuple[Position, dict[str, TableSchema | None]]:
        """Takes what an event trigger tells.

        Returns:
            The position, and tables that are no more what was chosen, whose rows go here, with their last schema.
        """
        match told:
            case Altered():
                return self._altered(told, position)
            case Rewritten():
                for path, known in position.tables.items():
                    if known.form is not None and known.form.oid == told.oid:
                        self._say(path, told.command, known)
                        first = bool(told.files) and path not in self._rewriting
                        alone = first and _moved(known.form, told.files)
                        self._rewriting.add(path)
                        position = self._ask(position, path, Needs(load=alone, backfill=True))
                return position, {}
            case Dropped():
                return self._dropped(told, position)

    def _altered(self, told: Altered, position: Position) -> tuple[Position, dict[str, TableSchema | None]]:
        # Where oid and name agree, it is the table that we know; where only one does, a table came or went by renaming.
        position, gone = self._leave(_elsewhere(told.form.oid, told.path, position), told.command, position)
        if told.path not in self._captured.paths:
            return position, gone
        self._heard.add(told.path)
        known = position.tables.get(told.path)
        if known is None:
            self.wants_look = True  # to publish it, and to load it
            return position, gone
        version = self._version(told.path, self._captured.print_for(told.path, told.columns, told.key), known)
        now = replace(version, form=told.form)
        asked = Needs()
        if known.form is not None:
            # Files that the command itself has changed were compared before it did.
            elsewhere = told.path not in self._rewriting and _moved(known.form, told.files)
            asked = needs(known.form, told.form, rewritten=False, empty=told.made, elsewhere=elsewhere)
        self._rewriting.discard(told.path)
        if now != known or asked != Needs():
            self._say(told.path, told.command, now)
        return self._ask(_with(position, told.path, now), told.path, asked), gone

    def _dropped(self, told: Dropped, position: Position) -> tuple[Position, dict[str, TableSchema | None]]:
        dropped = set(told.oids)
        leaving = []
        for path, known in position.tables.items():
            if known.form is None:
                continue
            if known.form.oid in dropped:
                leaving.append(path)
            elif dropped.intersection(known.form.partitions):
                left = tuple(oid for oid in known.form.partitions if oid not in dropped)
                now = replace(known, form=replace(known.form, partitions=left, file=0))
                self._heard.add(path)
                self._say(path, told.command, now)
                position = self._ask(_with(position, path, now), path, Needs(load=True))
        return self._leave(leaving, told.command, position)

    def _leave(
        self, paths: list[str], command: str, position: Position
    ) -> tuple[Position, dict[str, TableSchema | None]]:
        """Tables are not any more what was chosen."""
        gone: dict[str, TableSchema | None] = {}
        for path in paths:
            known = position.tables[path]
            self._say(path, command, known)
            gone[path] = self.last_schema(path, known)
            if known.form is not None:
                self._captured.shapes.pop(known.form.oid, None)
            self._heard.add(path)
            self.wants_look = True  # another may have come into its place
            position = replace(
                position,
                tables=_but(position.tables, path),
                loading=_but(position.loading, path),
                backfills=_but(position.backfills, path),
                due=_but(position.due, path),
            )
        return position, gone

    # What the catalog says

    @property
    def is_time(self) -> bool:
        """Whether the catalog should be looked at again."""
        every_s = LOOK_TOLD_S if self.told else LOOK_EVERY_S
        return self.wants_look or time.monotonic() - self._looked_at > every_s

    def look(self, position: Position) -> Position:
        """Reads the catalog, if it is time to."""
        position = self.judge(position)
        if not self.is_time:
            return position
        self.wants_look, self._looked_at = False, time.monotonic()
        self._captured.look()
        tables, told = self._captured.tables, telling.tells(self._session)
        anew = {path: table for path, table in tables.items() if not _is(table, position.tables.get(path))}
        if anew:
            publish(self._session, self._instance, anew)
        if self._look is None and (anew or self._different(tables, position)):
            self._look = _Look(tables=tables, lsn=watermark(self._session), told=told and self.told)
            self._heard.clear()
        self.told = told
        return position

    def _different(self, tables: Mapping[str, Table], position: Position) -> bool:
        if any(path not in tables for path in position.tables):
            return True
        return any(
            known.form != form_of(tables[path]) or known.print != self._captured.print_now(tables[path])
            for path, known in position.tables.items()
        )

    def judge(self, position: Position) -> Position:
        """At a boundary: judges what a look found, if the stream has passed it."""
        look = self._look
        if look is None or (position.lsn < look.lsn and not faults.armed("mutant.event_at_once")):
            return position
        self._look = None
        for path in self._captured.paths:
            table, known = look.tables.get(path), position.tables.get(path)
            if path in self._heard or path in position.due or (table is None and known is None):
                continue  # whatever else there is to be found, the next look finds
            if table is None or known is None or (known.form is not None and known.form.oid != table.oid):
                position = self._ask(position, path, Needs(load=True))
                continue
            now = self.known_as(path, table, known)
            if now == known:
                continue
            assert now.form is not None
            if known.form is None:
                asked = Needs(load=now.print != known.print)
            else:
                stood = refiled(known.form, table)
                # Of partitions even a TRUNCATE of one is not told.
                elsewhere = moved(stood, table.partitions)
                asked = needs(stood, now.form, rewritten=not look.told, elsewhere=elsewhere)
                if known.form == now.form:
                    asked = Needs(load=True)  # the user has chosen other columns to be carried as text
            if known.print != now.print:
                self._say(path, "found in the catalog", now)
            position = self._ask(_with(position, path, now), path, asked)
        return position

    def _ask(self, position: Position, path: str, asked: Needs) -> Position:
        """Notes what a table needs."""
        if not (asked.load or asked.backfill or asked.parts):
            return position
        since = current_moment(self._session).xmax
        table = self._captured.tables.get(path)
        if asked.load or path in position.loading or table is None or not can_backfill(table):
            return replace(position, due={**position.due, path: since}, backfills=_but(position.backfills, path))
        part = asked.parts[0] if len(asked.parts) == 1 and not asked.backfill else 0
        backfill = merged(position.backfills.get(path), Backfill(since=since, part=part))
        return replace(position, backfills={**position.backfills, path: backfill})

    def _version(self, path: str, fingerprint: str, known: Known | None) -> Known:
        """What is known, with the version that a shape has: the next one if it is new."""
        if known is not None:
            self._versions.setdefault((path, known.print), known.version)
        version = self._versions.get((path, fingerprint))
        if version is None:
            version = max((number for (of, _), number in self._versions.items() if of == path), default=0) + 1
            self._versions[path, fingerprint] = version
        form: Form | None = None if known is None else known.form
        return Known(version=version, print=fingerprint, form=form)

    def _say(self, path: str, command: str, known: Known) -> None:
        logger.info(
            "a captured table was altered",
            extra={"source": self._instance, "table": path, "command": command, "schema_version": known.version},
        )


def _path(relation: Relation) -> str:
    return f"{relation.schema}.{relation.table}"


def _elsewhere(oid: int, path: str, position: Position) -> list[str]:
    """Tables that are not any more what is known of them, since one has that name now."""
    return [
        of
        for of, known in position.tables.items()
        if known.form is not None and (known.form.oid == oid) != (of == path)
    ]


def _moved(known: Form, files: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a partition was emptied alone, which nobody tells, before an event trigger told of these files."""
    return moved(retold(known, files), [(oid, file) for oid, file, _ in files])


def _is(table: Table, known: Known | None) -> bool:
    return known is not None and (known.form is None or known.form.oid == table.oid)


def _with(position: Position, path: str, known: Known) -> Position:
    return replace(position, tables={**position.tables, path: known})


def _but(of: Mapping[str, _Value], path: str) -> dict[str, _Value]:
    return {name: value for name, value in of.items() if name != path}
