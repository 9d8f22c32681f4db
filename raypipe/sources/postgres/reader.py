"""Cuts a server's stream and the loads of tables into pieces: what goes into one, in which order, where it ends.

A piece begins where the last one ended. At a boundary it may first empty tables whose load begins, and copy chunks of
those that are loading; then it follows the stream up to what was on the server's disk when it began.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from raypipe.contracts import Piece, ReadAgain
from raypipe.errors import InvariantBroken, SchemaMismatch, Unavailable
from raypipe.sources.postgres import telling
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.backfilling import Backfiller, can_backfill, merged
from raypipe.sources.postgres.captured import Captured, truncate_batch
from raypipe.sources.postgres.changes import Changes
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.copier import Copier
from raypipe.sources.postgres.events import Keepalive, Message, Relation, Rows, Truncate
from raypipe.sources.postgres.evolution import Evolution
from raypipe.sources.postgres.gaps import gap
from raypipe.sources.postgres.gathering import Gathered, fitting
from raypipe.sources.postgres.parking import empty
from raypipe.sources.postgres.position import Backfill, Load, Partial, Position, lsn_of
from raypipe.sources.postgres.reread import Rereader, over
from raypipe.sources.postgres.snapshot import Visible, current_moment, passed
from raypipe.sources.postgres.stream import Stream

# A poll waits this long for what is known to be there; the server may be decoding changes that are not ours.
PATIENCE_S = 1.0
# The same when it must reach a position.
PATIENCE_UPTO_S = 60.0
# How often a server that says nothing is asked how far it is.
ASK_EVERY_S = 0.02
# An idle slot holds back at most so much of the server's log, for at most so long.
HEARTBEAT_BYTES = 16 << 20
HEARTBEAT_S = 30.0
# Less than this has come at once: there is no backlog, and nobody need ask how far the server is.
BACKLOG_BYTES = 64 << 10


class Reader:
    """Reads one source from a position on, one piece at a time.

    Args:
        instance: Name.
        address: Of the database.
        session: For statements.
        stream: Behind the position.
        captured: The chosen tables.
        position: To begin at.
        told: Event triggers have told of every altered table since the position.
    """

    def __init__(
        self,
        *,
        instance: str,
        address: Address,
        session: Session,
        stream: Stream,
        captured: Captured,
        position: Position,
        told: bool,
    ) -> None:
        self._instance = instance
        self._session = session
        self._stream = stream
        self._captured = captured
        self._evolution = Evolution(instance, session, captured, told=told)
        self._copier = Copier(address, session, captured)
        self._backfiller = Backfiller(instance, address, session, captured)
        self._changes = Changes(instance, address, session, captured, self._backfiller)
        self._rereader = Rereader(address, session, captured, self._evolution)
        self._address = address
        self._visible = Visible()
        self._told_at = time.monotonic()
        self._told = position
        self.position = position
        self.paused = False

    def next_piece(self, max_bytes: int, limit: Position | None) -> Piece | None:
        """The next piece; None if there is nothing new, or nothing before the limit.

        Raises:
            SourceGap: the limit is of another database, or the stream does not go on where it should.
            Unavailable: the server is away.
        """
        if limit is not None:
            if (limit.system, limit.database) != (self.position.system, self.position.database):
                raise gap(self._instance, "the position to read up to is one of another database")
            if self.position.lsn >= limit.lsn and self.position.boundary:
                return None
        gathered = Gathered()
        if self.position.boundary:
            self._begin_loads(gathered)
            if limit is None and self.position.loading and (not self.paused or self._copier.busy):
                self._copy(gathered, max_bytes)
            elif limit is None and self.position.backfills and not self.paused:
                self._fill_back(max_bytes)
            if limit is None and not self.paused and self._rereader.busy(self.position) and not self._copier.busy:
                self._read_again(gathered, max_bytes)
        if not self._copier.busy:
            self._follow(gathered, max_bytes, limit)
        if self.position.boundary:
            self.position = self._backfiller.give(self.position, gathered)
            self.position = self._evolution.judge(self.position)
        return self._finish(gathered)

    def backfill(self, path: str, backfill: Backfill) -> None:
        """Has rows of a table read again where they stand, from the next piece on.

        Raises:
            InvariantBroken: its rows cannot be replaced by key (``can_backfill``).
        """
        if not can_backfill(self._captured.tables[path]):
            raise InvariantBroken(f"The rows of {path} cannot be replaced by key.")
        self._backfiller.drop(path)
        again = merged(self.position.backfills.get(path), backfill)
        self.position = replace(self.position, backfills={**self.position.backfills, path: again})

    @property
    def estimates(self) -> dict[str, float]:
        """Rows of each captured table by the server's statistics."""
        return {path: table.estimated_rows for path, table in self._captured.tables.items()}

    def read_again(self, wish: ReadAgain) -> None:
        """Takes up a wish at the next boundary."""
        self._rereader.ask(wish)

    def close(self) -> None:
        """Releases what the reader opened itself; idempotent."""
        self._copier.close()
        self._backfiller.close()
        self._rereader.close()
        self._changes.end_round()

    # Loads

    def _begin_loads(self, gathered: Gathered) -> None:
        """Empties every table whose load begins."""
        if self._copier.busy:
            return  # the stream stands still
        self.position = self._evolution.look(self.position)
        if not self.position.due:
            return
        self.position = replace(self.position, loads=self.position.loads + 1)
        since = self._evolution.published(self.position.due)
        due = {path: max(of, since) for path, of in self.position.due.items()}
        if due.keys() & self.position.parked.keys():
            due = {**dict.fromkeys(self.position.parked, max(due.values())), **due}
            self.position = empty(gathered, self.position, self._instance, None)
        loading = dict(self.position.loading)
        known = dict(self.position.tables)
        for path, since in sorted(due.items()):
            table = self._captured.tables.get(path)
            if table is None:
                schema = self._evolution.last_schema(path, known.get(path))
                loading.pop(path, None)
                known.pop(path, None)
            else:
                known[path] = self._evolution.known_as(path, table, known.get(path))
                self._evolution.begins(table, known[path])
                schema = self._captured.schema(table, known[path].version)
                loading[path] = Load(since=since)
            if schema is not None:
                gathered.add(truncate_batch(schema, self.position.load_commit, self.position.load_ordinal, None))
        # A load brings every row, whatever was wanted of them.
        self.position = replace(
            self.position,
            loading=loading,
            tables=known,
            due={},
            backfills={path: each for path, each in self.position.backfills.items() if path not in due},
            rereads={path: each for path, each in self.position.rereads.items() if path not in due},
            unsure=tuple(path for path in self.position.unsure if path not in due),
        )

    def _copy(self, gathered: Gathered, max_bytes: int) -> None:
        """Copies the next rows of loading tables, as many as fit."""
        with self._selecting():
            self.position = self._copier.copy(self.position, self._evolution, gathered, max_bytes)

    def _fill_back(self, max_bytes: int) -> None:
        """Holds the next rows of a table that is read again where it stands."""
        with self._selecting():
            self.position = self._backfiller.read(self.position, max_bytes)

    def _read_again(self, gathered: Gathered, max_bytes: int) -> None:
        """Reads the next rows of tables of which a part is wanted."""
        with self._selecting():
            self.position = self._rereader.read(self.position, gathered, max_bytes)

    @contextmanager
    def _selecting(self) -> Iterator[None]:
        """Inside, rows are selected: whatever the stream has brought is seen, and a table that was altered is met."""
        self._visible.settle(self._session)
        try:
            yield
        except SchemaMismatch as error:
            # A table was altered or dropped since the catalog was read: it is read again at the next boundary.
            if error.fields.get("sqlstate") not in ("42P01", "42703"):
                raise
            self._evolution.wants_look = True

    # The stream

    def _follow(self, gathered: Gathered, max_bytes: int, limit: Position | None) -> None:
        """Takes what the stream has: a little, or all up to what is on the server's disk now; or up to the limit."""
        goal = None if limit is None else limit.lsn
        copied = gathered.bytes
        patience = PATIENCE_UPTO_S if limit is not None else PATIENCE_S
        deadline = time.monotonic() + patience
        asked_at = time.monotonic()
        while gathered.bytes - copied < max_bytes and not self._reached(goal):
            event = self._stream.next(ASK_EVERY_S if goal is not None else 0.0)
            now = time.monotonic()
            if event is None and goal is None:
                if self.position.boundary and 0 < gathered.bytes - copied < BACKLOG_BYTES:
                    break  # what was written meanwhile comes with the next piece
                goal = self._flushed()
                continue
            if event is None:
                if now > deadline:
                    if limit is not None:
                        raise Unavailable(f"Source {self._instance!r} does not reach the position asked for.")
                    break
                if now - asked_at >= ASK_EVERY_S:
                    self._stream.ask()
                    asked_at = now
                continue
            deadline = now + patience if not isinstance(event, Keepalive) else deadline
            if isinstance(event, Rows):
                self._take_rows(event, gathered, copied + max_bytes - gathered.bytes, limit)
            elif isinstance(event, Keepalive):
                self._advance(min(event.end_lsn, self._end(limit.lsn if limit is not None else event.end_lsn)))
            elif isinstance(event, Relation):
                self.position = self._evolution.follow(event, self.position)
            elif isinstance(event, Truncate):
                self._truncate(event, gathered)
            elif isinstance(event, Message):
                self._hear(event, gathered)
        if self._changes.round is not None and self.position.lsn >= self._changes.round.lsn:
            self._changes.end_round()

    def _end(self, goal: int) -> int:
        """Where a piece ends: rows that were completed are right where their round ends, so a boundary lies there."""
        if self.position.due and self.position.boundary:
            return self.position.lsn  # a load that is due begins before anything else of its table comes by
        return goal if self._changes.round is None else self._changes.round.lsn

    def _reached(self, goal: int | None) -> bool:
        if goal is None and self._changes.round is None and not self.position.due:
            return False
        return self.position.lsn >= self._end(sys.maxsize if goal is None else goal)

    def _flushed(self) -> int:
        return lsn_of(self._session.one("SELECT pg_current_wal_flush_lsn()::text")[0])

    def _take_rows(self, rows: Rows, gathered: Gathered, room: int, limit: Position | None) -> None:
        """Takes a run of rows, or as much of it as fits and lies before the limit; the rest is put back."""
        transactions = rows.transactions
        count, first, last = len(transactions.xid), 0, len(rows)
        partial = self.position.partial
        if partial is not None and count:
            place = int(np.searchsorted(transactions.final_lsn, partial.commit))
            if place == count or transactions.final_lsn[place] != partial.commit:
                raise gap(self._instance, "the transaction that was being read does not come again")
            end = int(transactions.end_row[place])
            first = int(np.searchsorted(rows.ordinal[:end], partial.ordinal))
        bound = self._bound(limit)
        if bound is not None:
            count = int(np.searchsorted(transactions.final_lsn, bound))
            last = int(transactions.end_row[count - 1]) if count else 0
        last, cut = fitting(rows, first, last, count, max(room, 1))
        if last > first:
            self.position = self._changes.add(rows.slice(first, last), self.position, gathered, limit)
        ended = int(np.count_nonzero((transactions.end_row[:count] <= last) & (transactions.end_lsn[:count] > 0)))
        if ended:
            self._visible_later(transactions.xid[:ended])
            self.position = replace(self.position, partial=None)
            self._advance(int(transactions.end_lsn[ended - 1]))
        if last > first and rows.transaction[last - 1] >= ended:
            commit = int(transactions.final_lsn[rows.transaction[last - 1]])
            self.position = replace(
                self.position, partial=Partial(commit=commit, ordinal=int(rows.ordinal[last - 1]) + 1)
            )
        beyond = bound is not None and count < len(transactions.xid)
        if cut or beyond:
            self._stream.put_back(rows.slice(last, len(rows)))
        if beyond and not cut and self.position.partial is None and bound is not None:
            self._advance(bound)  # the next commit lies behind it

    def _bound(self, limit: Position | None) -> int | None:
        """Transactions that commit from here on are left for the next piece."""
        bounds = [each.lsn for each in (limit, self._changes.round) if each is not None]
        if self.position.due and self.position.partial is not None:
            bounds.append(self.position.partial.commit + 1)
        return min(bounds, default=None)

    def _visible_later(self, xids: np.ndarray) -> None:
        position = self.position
        if position.loading or position.backfills or position.due or self._rereader.busy(position):
            self._visible.add(xids)

    def _advance(self, lsn: int) -> None:
        """Every transaction that commits before this LSN was read."""
        if lsn > self.position.lsn:
            loading = passed(self.position.loading, lsn) if self.position.loading else self.position.loading
            rereads, sure = over(self.position.rereads, lsn)
            unsure = tuple(path for path in self.position.unsure if path not in sure)
            self.position = replace(self.position, lsn=lsn, loads=0, loading=loading, rereads=rereads, unsure=unsure)

    def _truncate(self, event: Truncate, gathered: Gathered) -> None:
        if self._was_read(event):
            return
        for place, oid in enumerate(event.oids):
            shape = self._captured.shapes.get(oid)
            if shape is None:
                continue
            table = shape.schema.table
            path = f"{table.schema}.{table.table}"
            gathered.add(truncate_batch(shape.schema, event.final_lsn, event.ordinal + place, event.time_us))
            if path in self.position.parked:
                self._load_parked_again(gathered, path, event.time_us)
            self._backfiller.drop(path)
            backfills = {of: each for of, each in self.position.backfills.items() if of != path}
            self.position = self._evolution.emptied(path, event.xid, replace(self.position, backfills=backfills))
            if path in self.position.loading:
                # What a chunk has of it may be older or newer: the load begins again, which costs nothing now.
                again = Load(since=self.position.loading[path].since)
                self.position = replace(self.position, loading={**self.position.loading, path: again})
        after = Partial(commit=event.final_lsn, ordinal=event.ordinal + len(event.oids))
        self.position = replace(self.position, partial=after)

    def _was_read(self, event: Truncate | Message) -> bool:
        partial = self.position.partial
        return partial is not None and event.final_lsn == partial.commit and event.ordinal < partial.ordinal

    def _hear(self, event: Message, gathered: Gathered) -> None:
        """What an event trigger tells: the rows of a table that is no more what was chosen go at this place."""
        told = telling.read(event, self._address)
        if told is None or self._was_read(event):
            return
        self.position, gone = self._evolution.hear(told, self.position)
        for path, schema in gone.items():
            if schema is not None:
                gathered.add(truncate_batch(schema, event.final_lsn, event.ordinal, event.time_us))
            self._backfiller.drop(path)
            if path in self.position.parked:
                self._load_parked_again(gathered, path, event.time_us)
        self.position = replace(self.position, partial=Partial(commit=event.final_lsn, ordinal=event.ordinal + 1))

    def _load_parked_again(self, gathered: Gathered, emptied: str, time_us: int) -> None:
        """After a TRUNCATE of a table that has rows in quarantine: the others come back into it with their loads."""
        others = self.position.parked.keys() - {emptied}
        self.position = empty(gathered, self.position, self._instance, time_us)
        if others:
            due = dict.fromkeys(others, current_moment(self._session).xmax)
            self.position = replace(self.position, due={**self.position.due, **due})

    # Finishing

    def _finish(self, gathered: Gathered) -> Piece | None:
        position, told = self.position, self._told
        moved = replace(told, lsn=position.lsn) != position or told.boundary != position.boundary
        idle_s = time.monotonic() - self._told_at
        due = position.lsn - told.lsn >= HEARTBEAT_BYTES or (position.lsn > told.lsn and idle_s >= HEARTBEAT_S)
        answered = tuple(self._rereader.answered)
        if not gathered.batches and not answered and not moved and not (due and position.boundary):
            return None
        if position.loading or position.backfills or self._rereader.busy(position):
            self._visible.settle(self._session)
        self._rereader.answered.clear()
        self._told, self._told_at = position, time.monotonic()
        return Piece(
            batches=gathered.joined(),
            position=position.to_text(),
            boundary=position.boundary,
            loading=tuple(_relation(self._instance, path) for path in position.unfinished),
            parked=gathered.parked,
            answered=answered,
        )


def _relation(instance: str, path: str) -> str:
    return f"{instance}.{path.partition('.')[2]}"
