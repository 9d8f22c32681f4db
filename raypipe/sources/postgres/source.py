"""The PostgreSQL source: connections, checks and waiting around a reader of changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from raypipe.contracts import Piece, ReadAgain, SourceView
from raypipe.errors import InvariantBroken, Kind, RaypipeError, SchemaMismatch
from raypipe.model import TableSchema
from raypipe.sources.postgres import install, telling
from raypipe.sources.postgres.address import parse_address
from raypipe.sources.postgres.bridge import over_gap
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.condition import require_condition
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.gaps import Server, read_kept, read_server, read_slot, require_same, require_slot
from raypipe.sources.postgres.position import Known, Position
from raypipe.sources.postgres.reader import Reader
from raypipe.sources.postgres.schema import find_tables, path_of, require_tables
from raypipe.sources.postgres.snapshot import current_moment
from raypipe.sources.postgres.stream import Stream
from raypipe.sources.postgres.view import PostgresView, exact_moment

# A backfill that cannot go on yet is tried again after this.
BACKFILL_WAIT_S = 0.05


@dataclass(kw_only=True)
class _Open:
    """What an open source holds: its connections, and the reader on them."""

    session: Session
    stream: Stream
    reader: Reader


class PostgresSource:
    """One PostgreSQL database, read through a logical replication slot; see ``raypipe.contracts.Source``.

    Args:
        instance: Name.
        url: ``postgresql://user:password@host:port/database?…``.
        tables: To capture, as ``table`` (in the schema ``public``) or ``schema.table``.
        pipeline: Whose source it is: the default names of slot and publication have it.
    """

    def __init__(self, instance: str, url: str, tables: Sequence[str], pipeline: str = "") -> None:
        self.instance = instance
        self._address = parse_address(instance, url, pipeline)
        self._paths = tuple(sorted({path_of(name) for name in tables}))
        self._open: _Open | None = None
        names = [path.partition(".")[2] for path in self._paths]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaMismatch(
                f"Source {instance!r} has two tables of the name {twice[0]!r} in different schemas.",
                remedy="Read them as two sources: a relation is called <source>.<table>.",
            )

    def tables(self) -> tuple[TableSchema, ...]:
        """See ``raypipe.contracts.Source``; works before the capture is installed, and writes nothing."""
        with closing(Session(self._address, "look")) as session:
            tables = require_tables(session, self.instance, self._paths)
            captured = Captured(self.instance, self._paths, session)
            return tuple(captured.schema(table, 1) for table in tables.values())

    def install(self) -> None:
        """See ``raypipe.contracts.Source``: makes the publication and the replication slot."""
        install.install(self.instance, self._address, self._paths)

    def remove(self) -> None:
        """See ``raypipe.contracts.Source``: drops the replication slot and the publication."""
        install.remove(self._address)

    @contextmanager
    def view(self) -> Iterator[SourceView]:
        """See ``raypipe.contracts.Source``; takes a temporary replication slot as long as it is open."""
        with exact_moment(self._address) as (session, server, lsn):
            captured = Captured(self.instance, self._paths, session)
            exported = str(session.one("SELECT pg_export_snapshot()")[0])
            position = replace(self._position(server, lsn), snapshot=exported)
            with closing(PostgresView(self.instance, session, captured, position)) as view:
                yield view

    def open(self, position: str | None, reload: Collection[str] = ()) -> None:
        """See ``raypipe.contracts.Source``; installs the capture if the position is None."""
        self.close()
        stands = None if position is None else Position.parse(position)
        session = Session(self._address, "control")
        try:
            replication = Session(self._address, "reader", replication=True)
            try:
                self._open = self._opened(session, replication, stands, reload)
            except BaseException:
                replication.close()
                raise
        except BaseException:
            session.close()
            raise

    def _opened(
        self, session: Session, replication: Session, stands: Position | None, reload: Collection[str]
    ) -> _Open:
        install.require_logical(session)
        server = read_server(replication)
        if stands is not None:
            require_same(self.instance, stands, server, self._address)
            require_slot(self.instance, stands, read_slot(session, self._address), server)
        # Later a table may be gone: that has its place in the stream, and another may take its name.
        if stands is None:
            require_tables(session, self.instance, self._paths)
        tables = find_tables(session, self.instance, self._paths)
        install.publish(session, self.instance, tables)
        # What was altered while there were no triggers, or changes were missed, has not been told.
        told = telling.tells(session) and not (stands is not None and stands.unsure)
        telling.install(session)
        if stands is None:
            stands = self._position(server, install.make_slot(session))
        captured = Captured(self.instance, self._paths, session)
        known = {path: each for path, each in stands.tables.items() if path in self._paths}
        loading = {path: load for path, load in stands.loading.items() if path in known and path in tables}
        restart = {path for path in tables if self._relation(path) in reload or path not in known}
        # What was copied may have been altered since; and a table without a key is not loaded on from where it was.
        restart |= {path for path in loading if known[path].print != captured.print_now(tables[path])}
        restart |= {path for path, load in loading.items() if not tables[path].key and load.rows and load.chunk is None}
        restart |= {
            path
            for path in stands.unsure
            if path in known and path in tables and self._altered(captured, path, known[path])
        }
        due = {path: since for path, since in stands.due.items() if path in known}
        if restart:
            due |= dict.fromkeys(restart, current_moment(session).xmax)
        start = replace(
            stands,
            timeline=server.timeline,
            tables=known,
            loading=loading,
            due=due,
            backfills={path: each for path, each in stands.backfills.items() if path in known},
            rereads={path: each for path, each in stands.rereads.items() if path in known},
        )
        stream = Stream(self._address, start.lsn, replication, session)
        reader = Reader(
            instance=self.instance,
            address=self._address,
            session=session,
            stream=stream,
            captured=captured,
            position=start,
            told=told,
        )
        return _Open(session=session, stream=stream, reader=reader)

    def _altered(self, captured: Captured, path: str, known: Known) -> bool:
        """Whether a table of which changes were missed is another one, or has other columns."""
        table = captured.tables.get(path)
        if table is None or known.print != captured.print_now(table):
            return True
        return known.form is not None and known.form.oid != table.oid

    def _position(self, server: Server, lsn: int) -> Position:
        return Position(
            system=server.system,
            database=server.database,
            slot=self._address.slot,
            timeline=server.timeline,
            lsn=lsn,
        )

    def poll(self, max_bytes: int, upto: str | None = None) -> Piece | None:
        """See ``raypipe.contracts.Source``; None too where the reader stands at ``upto`` or beyond."""
        opened = self._require_open()
        limit = None if upto is None else Position.parse(upto)
        try:
            return opened.reader.next_piece(max_bytes, limit)
        except BaseException:
            self.close()  # whatever was half read is read again from the log's position
            raise

    def pause_loads(self, paused: bool) -> None:
        """See ``raypipe.contracts.CanPauseLoads``; a table without a key that is being copied is copied to its end."""
        self._require_open().reader.paused = paused

    def over_gap(self, position: str, anew: Collection[str], *, in_order: bool) -> str | None:
        """See ``raypipe.contracts.CanBeRepaired``: makes the replication slot again."""
        stands = Position.parse(position)
        paths = [path for path in self._paths if self._relation(path) in anew]
        found = over_gap(self.instance, self._address, self._paths, stands, paths, in_order=in_order)
        return None if found is None else found.to_text()

    def check_condition(self, table: str, condition: str) -> None:
        """See ``raypipe.contracts.CanReadAgain``."""
        path = next((path for path in self._paths if self._relation(path) == table), "")
        with closing(Session(self._address, "look")) as session:
            found = require_tables(session, self.instance, [path])[path]
            if not found.key:
                raise RaypipeError(
                    f"{table} has no key, so rows of it that are read again would stand beside those that are there.",
                    kind=Kind.PIPELINE_FILE,
                    remedy="Load the whole table again: leave --where out.",
                    table=table,
                )
            require_condition(session, self.instance, found, condition)

    def read_again(self, wish: ReadAgain) -> None:
        """See ``raypipe.contracts.CanReadAgain``."""
        self._require_open().reader.read_again(wish)

    def wait(self, timeout_s: float) -> bool:
        """See ``raypipe.contracts.Source``; the server's own message ends the wait."""
        opened = self._require_open()
        reader = opened.reader
        if reader.paused or not (reader.position.loading or reader.position.backfills):
            return opened.stream.wait(timeout_s)
        if not reader.position.loading:
            opened.stream.wait(min(timeout_s, BACKFILL_WAIT_S))  # for transactions to end, or the stream to get there
        return True

    def acknowledge(self, position: str) -> None:
        """See ``raypipe.contracts.Source``; the server forgets what lies before at its next checkpoint."""
        self._require_open().stream.acknowledge(Position.parse(position).lsn)

    def kept(self) -> Mapping[str, int]:
        """See ``raypipe.contracts.KeepsForUs``: the slot's lag, and ``safe_wal_size`` where that is bounded."""
        return read_kept(self._require_open().session, self._address)

    def progress(self) -> Mapping[str, float]:
        """See ``raypipe.contracts.Source``: rows loaded, of those that the server's statistics estimate."""
        reader = self._require_open().reader
        estimates = reader.estimates
        position = reader.position
        rows = {path: each.rows for path, each in position.backfills.items()}
        rows |= {path: each.rows for path, each in position.rereads.items()}
        rows |= {path: load.rows for path, load in position.loading.items()}
        return {
            self._relation(path): min(rows.get(path, 0) / max(estimates.get(path, 0.0), rows.get(path, 0), 1.0), 0.99)
            for path in position.unfinished
        }

    def close(self) -> None:
        """See ``raypipe.contracts.Source``."""
        if self._open is not None:
            opened, self._open = self._open, None
            opened.reader.close()
            opened.stream.close()
            opened.session.close()

    def _require_open(self) -> _Open:
        if self._open is None:
            raise InvariantBroken(f"Source {self.instance!r} is not open.")
        return self._open

    def _relation(self, path: str) -> str:
        return f"{self.instance}.{path.partition('.')[2]}"
