"""Copies chunks of several tables at one moment, each over a connection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from raypipe.errors import RaypipeError
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.connect import Session, literal
from raypipe.sources.postgres.copying import GULP_BYTES, TOO_LARGE, Copied, copy_rows, gulp_bytes
from raypipe.sources.postgres.decode import Shape


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk to copy.

    Attributes:
        sql: SELECT of its rows, in the shape's columns.
        shape: Of its table.
        room: Bytes that it is meant to have.
    """

    sql: str
    shape: Shape
    room: int


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was copied of a chunk.

    Attributes:
        parts: Its rows, in order.
        whole: Nothing was left out because it turned out too large.
    """

    parts: Sequence[Copied]
    whole: bool


class Connections:
    """Connections that all see what the first one sees, in its transaction. Used by one thread, which waits for all.

    Args:
        address: Of the database.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._first: Session | None = None
        self._others: list[Session] = []
        self._joined = 0  # of the others, in the transaction that is open

    @property
    def first(self) -> Session:
        """The one whose transaction decides; connected when first asked for."""
        if self._first is None:
            self._first = Session(self._address, "copy")
        return self._first

    @property
    def open(self) -> bool:
        """Whether they are connected: they are not once a chunk was left in the middle."""
        return self._first is not None

    def copy(self, chunks: Sequence[Chunk]) -> list[Read]:
        """Copies chunks side by side, the first over the first connection.

        Raises:
            SchemaMismatch: of the first chunk that failed; the others have ended.
            Unavailable: likewise.
        """
        first = self.first
        if len(chunks) == 1:
            read = [self._read(first, chunks[0])]
        else:
            self._join(len(chunks) - 1)
            with ThreadPoolExecutor(len(chunks), thread_name_prefix="copy") as readers:
                read = list(readers.map(self._read, [first, *self._others], chunks))
        if not all(each.whole for each in read):
            self.close()
        return read

    def end(self) -> None:
        """Ends the transaction of all of them; the connections stay."""
        for session in self._others[: self._joined]:
            session.run("COMMIT")
        self._joined = 0
        if self._first is not None:
            self._first.run("COMMIT")

    def close(self) -> None:
        """Ends the connections; idempotent."""
        for session in (self._first, *self._others):
            if session is not None:
                with suppress(RaypipeError):
                    session.close()
        self._first, self._joined = None, 0
        self._others.clear()

    def _join(self, others: int) -> None:
        while len(self._others) < others:
            self._others.append(Session(self._address, "copy"))
        if self._joined < others:
            snapshot = literal(str(self.first.one("SELECT pg_export_snapshot()")[0]))
            for session in self._others[self._joined : others]:
                session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                session.run(f"SET TRANSACTION SNAPSHOT {snapshot}")
            self._joined = others

    def _read(self, session: Session, chunk: Chunk) -> Read:
        parts: list[Copied] = []
        size = 0
        rows = copy_rows(session, chunk.sql, chunk.shape, gulp_bytes(chunk.room))
        for part in rows:
            parts.append(part)
            size += sum(column.nbytes for column in part.columns)
            if size > max(TOO_LARGE * chunk.room, GULP_BYTES):
                rows.close()
                session.close()  # with what the server still sends
                return Read(parts=parts, whole=False)
        return Read(parts=parts, whole=True)
