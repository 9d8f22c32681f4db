"""The SQL of one table's capture: its change table and the triggers that fill it. Pure text, no connection.

Every writer runs these triggers, whatever its SQLite version, and knows nothing of raypipe. What follows from that:

* Each change takes the next number of one global counter; its row has ``id = 2 * seq``, the after image of an update
  ``2 * seq + 1``. SQLite has one writer at a time, so the numbers are in commit order.
* ``ALTER TABLE … DROP COLUMN`` fails if a trigger names the column. So droppable columns are read as
  ``(SELECT new."x")`` beside a one-row table of NULLs aliased ``new``: the inner scope finds the trigger's NEW first;
  once the column is gone, the name falls through to the table of NULLs. RENAME COLUMN rewrites it like any other.
* ``INSERT OR REPLACE`` removes rows without firing a delete trigger unless the writer set ``recursive_triggers``. So a
  BEFORE trigger *stashes* the rows a change conflicts with, and the AFTER trigger records the delete of those that
  are gone. The outer statement's OR clause overrides that of ours, so ours must not conflict by themselves. A stashed
  row that survives (OR IGNORE, upsert) is harmless: whatever changes it later takes it out of the stash.
* Other triggers, and foreign keys of a row to itself, may change a row again before our AFTER trigger has recorded the
  first change; then the records stand in the wrong order. They still sum up to the truth, but the last image of the
  key is not the row's. Where that can be, the AFTER trigger looks at the row as it is and, if it is another,
  *confirms* it: records that sum up to nothing and end with the row as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from raypipe.model import Op
from raypipe.sources.sqlite.connect import quoted
from raypipe.sources.sqlite.schema import BUILTIN_COLLATIONS, Field, Shape, Term, Unique

CLOCK = "_raypipe_clock"


def change_table(number: int) -> str:
    """Name of a capture's change table."""
    return f"_raypipe_changes_{number}"


def stash_table(number: int) -> str:
    """Name of the table where rows wait that a change may be about to replace."""
    return f"_raypipe_stash_{number}"


def absent_table(number: int) -> str:
    """Name of the one-row table of NULLs that stands in for columns dropped later."""
    return f"_raypipe_absent_{number}"


def trigger_name(number: int, event: str) -> str:
    """Name of one of a capture's triggers."""
    return f"_raypipe_{number}_{event}"


def trigger_events(shape: Shape) -> tuple[str, ...]:
    """Events of the triggers on the captured table itself."""
    before_delete = ("before_delete",) if _forgets_early(shape) else ()
    moving = ("moving",) if shape.rewritten else ()
    return ("before_insert", "insert", "before_update", *moving, "update", *before_delete, "delete")


def _forgets_early(shape: Shape) -> bool:
    """Whether others may write the table between a row's deletion and our AFTER trigger."""
    return shape.cascades or shape.rewritten


def capture_sql(number: int, shape: Shape) -> list[str]:
    """Statements that put the capture of a table in place."""
    return _Capture(number, shape).statements()


class _Capture:
    """Writes the statements of one capture; the image of a row is its columns ``c0``, ``c1`` … in order."""

    def __init__(self, number: int, shape: Shape) -> None:
        self.number = number
        self.shape = shape
        self.table = quoted(shape.table)
        self.changes = change_table(number)
        self.stash = stash_table(number)
        self.absent = absent_table(number)
        self.droppable = [field for field in shape.fields if field.droppable]
        self.images = [f"c{place}" for place in range(len(shape.fields))]
        self.image_of = {field.name: image for field, image in zip(shape.fields, self.images, strict=True)}

    def statements(self) -> list[str]:
        images = ", ".join(self.images)
        statements = [
            # No column has a type: SQLite then stores each value exactly as the captured table does.
            f"CREATE TABLE {self.changes}(id INTEGER PRIMARY KEY, seq, op, rid, at, {images})",
            f"CREATE TABLE {self.stash}(sid INTEGER PRIMARY KEY, gone, rid, {images})",
            *self._stash_indexes(),
            self._trigger("replaced", f"AFTER UPDATE OF gone ON {self.stash}", "NEW.gone = 1", self._replaced()),
            self._before("insert", "1"),
            self._trigger("insert", f"AFTER INSERT ON {self.table}", "", self._inserted()),
            self._before("update", f"NOT {self._same('o', 'OLD')}"),
            self._trigger("update", f"AFTER UPDATE ON {self.table}", "", self._updated()),
            self._trigger("delete", f"AFTER DELETE ON {self.table}", "", self._deleted()),
        ]
        if _forgets_early(self.shape):
            statements.append(self._trigger("before_delete", f"BEFORE DELETE ON {self.table}", "", [self._forget()]))
        if self.shape.rewritten:
            # Until its AFTER trigger has run, a row that gets a new identity is not where the stash would look for it.
            moving = f"UPDATE {self.stash} SET gone = NULL WHERE {self._stash_holds_old()}"
            statements.append(self._trigger("moving", f"BEFORE UPDATE ON {self.table}", "", [moving]))
        if self.droppable:
            nulls = ", ".join(quoted(field.name) for field in self.droppable)
            statements[:0] = [
                f"CREATE TABLE {self.absent}(_raypipe_one INTEGER PRIMARY KEY, {nulls})",
                f"INSERT INTO {self.absent}(_raypipe_one) VALUES (1)",
            ]
        return statements

    def _trigger(self, event: str, when: str, condition: str, body: list[str]) -> str:
        name = trigger_name(self.number, event)
        guard = f" WHEN {condition}" if condition else ""
        return f"CREATE TRIGGER {name} {when} FOR EACH ROW{guard} BEGIN\n  " + ";\n  ".join(body) + ";\nEND"

    # Recording

    def _inserted(self) -> list[str]:
        return [self._settle("1", "1"), self._tick(), self._record(Op.INSERT, "new", 0), *self._confirm_new()]

    def _updated(self) -> list[str]:
        return [
            self._settle(f"NOT ({self._stash_holds_old()})", f"NOT {self._same('NEW', 'OLD')}"),
            self._tick(),
            self._record(Op.UPDATE_BEFORE, "old", 0),
            self._record(Op.UPDATE_AFTER, "new", 1),
            self._renew(),
            *self._confirm_new(),
            *self._confirm_old(f" AND NOT ({self._has_key('NEW', 'OLD')})"),
        ]

    def _deleted(self) -> list[str]:
        record = [self._tick(), self._record(Op.DELETE, "old", 0), *self._confirm_old("")]
        if self.shape.cascades:
            # Replacing a parent may delete the very row that is being written, whose AFTER trigger then never comes.
            # So here too rows may be found gone.
            return [f"UPDATE {self.stash} SET gone = 1 WHERE gone = 0 AND {self._vanished()}", *record]
        return record if _forgets_early(self.shape) else [self._forget(), *record]

    def _replaced(self) -> list[str]:
        images = ", ".join(f"OLD.{image}" for image in self.images)
        return [
            self._tick(),
            f"INSERT INTO {self.changes} SELECT k.seq * 2, k.seq, {Op.DELETE:d}, OLD.rid, julianday('now'), {images}"
            f" FROM {CLOCK} AS k WHERE k.one = 1",
            f"DELETE FROM {self.stash} WHERE sid = OLD.sid",
        ]

    def _tick(self) -> str:
        return f"UPDATE {CLOCK} SET seq = seq + 1 WHERE one = 1"

    def _record(self, op: Op, row: str, offset: int) -> str:
        rowid, *values = self._image(row)
        beside = f", {self.absent} AS {row}" if self.droppable else ""
        condition = f" AND {row}._raypipe_one = 1" if self.droppable else ""
        return (
            f"INSERT INTO {self.changes} SELECT k.seq * 2 + {offset}, k.seq, {op:d}, {rowid}, julianday('now'), "
            f"{', '.join(values)} FROM {CLOCK} AS k{beside} WHERE k.one = 1{condition}"
        )

    def _image(self, row: str) -> list[str]:
        """Rowid and columns of the trigger's row, beside the table of NULLs under the same alias."""
        # That alias would catch a plain NEW.x, hence a scope of its own for every column.
        read = "(SELECT {}.{})" if self.droppable else "{}.{}"
        rowid = read.format(row, quoted(self.shape.rowid)) if self.shape.rowid else "NULL"
        return [rowid, *(read.format(row, quoted(field.name)) for field in self.shape.fields)]

    # Rows that were changed again before they were recorded

    @property
    def _confirms(self) -> bool:
        return self.shape.rewritten and bool(self.shape.key)  # without a key only the sum counts

    def _confirm_new(self) -> list[str]:
        if not self._confirms:
            return []
        equal = " AND ".join(
            f"o.{quoted(field.name)} COLLATE BINARY IS {self._outer('new', field)}" for field in self.shape.fields
        )
        same = f"EXISTS (SELECT 1 FROM {self.table} AS o WHERE {self._has_key('o', 'NEW')} AND {equal})"
        if self.droppable:
            same = f"EXISTS (SELECT 1 FROM {self.absent} AS o WHERE o._raypipe_one = 1 AND {same})"
        gone = f"NOT EXISTS (SELECT 1 FROM {self.table} AS o WHERE {self._has_key('o', 'NEW')})"
        return [
            f"{self._tick()} AND NOT {same}",
            *self._record_present("NEW", f"NOT {same}"),
            f"{self._record(Op.INSERT, 'new', 0)} AND {gone}",
            f"{self._tick()} AND {gone}",
            f"{self._record(Op.DELETE, 'new', 0)} AND {gone}",
        ]

    def _confirm_old(self, moved: str) -> list[str]:
        if not self._confirms:
            return []
        back = f"EXISTS (SELECT 1 FROM {self.table} AS o WHERE {self._has_key('o', 'OLD')}{moved})"
        return [f"{self._tick()} AND {back}", *self._record_present("OLD", back)]

    def _record_present(self, key_of: str, condition: str) -> list[str]:
        """Records the row that has a key now, as an update to itself."""
        rowid, *images = self._present_row()
        beside = f", {self.absent} AS o" if self.droppable else ""
        one = " AND o._raypipe_one = 1" if self.droppable else ""
        return [
            f"INSERT INTO {self.changes} SELECT k.seq * 2 + {offset}, k.seq, {op:d}, {rowid}, julianday('now'), "
            f"{', '.join(images)} FROM {CLOCK} AS k, {self.table} AS v{beside}"
            f" WHERE k.one = 1{one} AND {self._has_key('v', key_of)} AND {condition}"
            for offset, op in enumerate((Op.UPDATE_BEFORE, Op.UPDATE_AFTER))
        ]

    def _has_key(self, row: str, other: str) -> str:
        return " AND ".join(f"{row}.{quoted(name)} IS {other}.{quoted(name)}" for name in self.shape.key) or "1"

    # Rows that a change replaces

    def _before(self, event: str, other: str) -> str:
        """Stashes the rows, other than the changed one, that conflict with the new row."""
        conflicts = self._conflicts(other)
        exists = " OR ".join(f"EXISTS ({query})" for query in conflicts)
        rowid, *images = self._present_row()
        beside = f", {self.absent} AS o" if self.droppable else ""
        condition = "o._raypipe_one = 1 AND " if self.droppable else ""
        if self.droppable:
            exists = f"EXISTS (SELECT 1 FROM {self.absent} AS o WHERE o._raypipe_one = 1 AND ({exists}))"
        body = (
            f"INSERT INTO {self.stash}(gone, rid, {', '.join(self.images)}) SELECT 0, {rowid}, {', '.join(images)}"
            f" FROM {self.table} AS v{beside} WHERE {condition}({self._identity('v')}) IN ({' UNION '.join(conflicts)})"
            f" AND NOT EXISTS (SELECT 1 FROM {self.stash} WHERE {self._stash_is('v')})"
        )
        # A row still marked as moving was not moved after all (OR IGNORE).
        unmoved = [f"DELETE FROM {self.stash} WHERE gone IS NULL AND NOT {self._vanished()}"]
        bodies = [*(unmoved if self.shape.rewritten else []), body]
        return self._trigger(f"before_{event}", f"BEFORE {event.upper()} ON {self.table}", exists, bodies)

    def _conflicts(self, other: str) -> list[str]:
        """One query for each unique key, yielding the identity of the row that has the new row's key."""
        keys = [("", [self._same("o", "NEW")])] + [
            (unique.index, self._conflict(unique)) for unique in self.shape.uniques
        ]
        return [
            f"SELECT {self._identity('o')} FROM {self._while_indexed(index)}{self.table} AS o"
            f" WHERE {' AND '.join([*conditions, other])}"
            for index, conditions in keys
        ]

    @staticmethod
    def _while_indexed(index: str) -> str:
        """Makes a query end at once when somebody has dropped the index, instead of scanning the table.

        The triggers are renewed as soon as a reader looks; until then every write would pay. A subquery as the outer
        loop does it: SQLite would test a condition once for every row.
        """
        if not index:
            return ""
        name = index.replace("'", "''")
        return f"(SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = '{name}') CROSS JOIN "

    def _conflict(self, unique: Unique) -> list[str]:
        conditions = [self._equal_term(term) for term in unique.terms]
        if unique.where:
            conditions += [f"({unique.where})", self._of_new(unique.where)]
        return conditions

    def _equal_term(self, term: Term) -> str:
        if term.expression:
            return f"({term.expression}) COLLATE {quoted(term.collation)} = {self._of_new(term.expression)}"
        return f"o.{quoted(term.column)} COLLATE {quoted(term.collation)} = {self._new(term.column)}"

    def _new(self, name: str) -> str:
        field = next(field for field in self.shape.fields if field.name == name)
        value = self._outer("new", field)
        # OR REPLACE puts the default where a NOT NULL column would become NULL, but only after this trigger.
        return f"coalesce({value}, {field.fallback})" if field.fallback else value

    def _outer(self, row: str, field: Field) -> str:
        """A column of the trigger's row, anywhere."""
        value = f"{row}.{quoted(field.name)}"
        if not field.droppable:
            return value
        return f"(SELECT (SELECT {value}) FROM {self.absent} AS {row} WHERE {row}._raypipe_one = 1)"

    def _of_new(self, expression: str) -> str:
        columns = ", ".join(f"{self._new(field.name)} AS {quoted(field.name)}" for field in self.shape.fields)
        return f"(SELECT {expression} FROM (SELECT {columns}))"

    def _present(self, field: Field) -> str:
        if not field.droppable:
            return f"v.{quoted(field.name)}"
        return f"(SELECT o.{quoted(field.name)} FROM {self.table} AS o WHERE {self._same('o', 'v')})"

    def _settle(self, other: str, moved: str) -> str:
        """Records the delete of stashed rows that the change has replaced: the trigger ``replaced`` does it.

        Args:
            other: Condition for a stashed row not to be the changed one.
            moved: Condition for the changed row to have come to its identity only now.
        """
        taken = self._stash_is("NEW")
        matches = [taken]
        for unique in self.shape.uniques:
            columns = [term for term in unique.terms if term.column]
            matches.append(
                " AND ".join(
                    f"{self.image_of[term.column]} COLLATE {quoted(term.collation)} = +{self._new(term.column)}"
                    for term in columns
                )
                or "1"
            )
        anywhere = " OR ".join(f"({match})" for match in matches)
        # A plain UPDATE: finding out that the stash is empty is what every write pays.
        return (
            f"UPDATE {self.stash} SET gone = 1"
            f" WHERE gone = 0 AND {other} AND ({anywhere}) AND (({taken} AND {moved}) OR {self._vanished()})"
        )

    def _vanished(self) -> str:
        return f"NOT EXISTS (SELECT 1 FROM {self.table} AS o WHERE {self._is_stashed('o')})"

    def _forget(self) -> str:
        return f"DELETE FROM {self.stash} WHERE {self._stash_holds_old()}"

    def _renew(self) -> str:
        """Gives a stashed row its new image: that of the row as it is, where it may not be the trigger's new row."""
        columns = ", ".join(["gone", "rid", *self.images])
        if self.shape.rewritten:
            row, alias, condition = self._present_row(), "o", f" AND {self._same('v', 'NEW')}"
            source = f"{self.table} AS v"
        else:
            row, alias, condition, source = self._image("new"), "new", "", ""
        tables = ", ".join(filter(None, [source, f"{self.absent} AS {alias}" if self.droppable else ""]))
        one = f"{alias}._raypipe_one = 1" if self.droppable else "1"
        beside = f" FROM {tables} WHERE {one}{condition}" if tables else ""
        image = f"SELECT 0, {', '.join(row)}{beside}"
        return f"UPDATE {self.stash} SET ({columns}) = ({image}) WHERE {self._stash_holds_old()}"

    def _present_row(self) -> list[str]:
        """Rowid and columns of the table's row ``v``."""
        rowid = f"v.{quoted(self.shape.rowid)}" if self.shape.rowid else "NULL"
        return [rowid, *(self._present(field) for field in self.shape.fields)]

    def _stash_indexes(self) -> list[str]:
        """So that ``INSERT OR IGNORE`` of many known rows, which all stay stashed, does not slow the writer down."""
        keys = [[f"{self.image_of[t.column]} COLLATE {quoted(t.collation)}" for t in self.shape.identity] or ["rid"]]
        keys += [
            [f"{self.image_of[t.column]} COLLATE {quoted(t.collation)}" for t in unique.terms]
            for unique in self.shape.uniques
            if all(term.column and term.collation.upper() in BUILTIN_COLLATIONS for term in unique.terms)
        ]
        return [
            f"CREATE INDEX {self.stash}_{place} ON {self.stash}({', '.join(key)})" for place, key in enumerate(keys)
        ]

    # Identity: the rowid, or the primary key of a table WITHOUT ROWID

    def _identity(self, row: str) -> str:
        names = [self.shape.rowid] if self.shape.rowid else [term.column for term in self.shape.identity]
        return ", ".join(f"{row}.{quoted(name)}" for name in names)

    def _same(self, row: str, other: str) -> str:
        if self.shape.rowid:
            return f"{row}.{quoted(self.shape.rowid)} = {other}.{quoted(self.shape.rowid)}"
        return self._all(
            f"{row}.{quoted(term.column)} COLLATE {quoted(term.collation)} = {other}.{quoted(term.column)}"
            for term in self.shape.identity
        )

    def _stash_is(self, row: str) -> str:
        # The plus takes the affinity away: it would keep SQLite from using an index on our columns without a type.
        if self.shape.rowid:
            return f"{self.stash}.rid = +{row}.{quoted(self.shape.rowid)}"
        return self._all(
            f"{self.stash}.{self.image_of[term.column]} COLLATE {quoted(term.collation)} = +{row}.{quoted(term.column)}"
            for term in self.shape.identity
        )

    def _stash_holds_old(self) -> str:
        """Whether a stashed row is the trigger's old row, and not one that this row has replaced under its identity."""
        if not self.shape.rewritten:
            return self._stash_is("OLD")
        images = " AND ".join(
            f"{self.stash}.{image} COLLATE BINARY IS +{self._outer('old', field)}"
            for field, image in zip(self.shape.fields, self.images, strict=True)
        )
        return f"{self._stash_is('OLD')} AND {images}"

    def _is_stashed(self, row: str) -> str:
        if self.shape.rowid:
            return f"{row}.{quoted(self.shape.rowid)} = {self.stash}.rid"
        return self._all(
            f"{row}.{quoted(term.column)} COLLATE {quoted(term.collation)} = {self.stash}.{self.image_of[term.column]}"
            for term in self.shape.identity
        )

    @staticmethod
    def _all(conditions: Iterable[str]) -> str:
        return f"({' AND '.join(conditions)})"
