"""The captured tables as one read transaction sees them, at a place in the stream that is exactly that moment.

The order in which commits become visible is not their order in the write-ahead log, so an ordinary transaction stands
at no place of the stream. A replication slot made inside a transaction does: the server waits until it knows a place of
which every earlier commit is seen and no later one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import pyarrow as pa

from raypipe.errors import RaypipeError, SchemaMismatch
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.copying import copy_rows, select_rows
from raypipe.sources.postgres.decode import Shape
from raypipe.sources.postgres.digest import Marker, read_checksums, read_marks
from raypipe.sources.postgres.gaps import Server, read_server
from raypipe.sources.postgres.install import SLOT_TIMEOUT_S
from raypipe.sources.postgres.misfits import require_whole_keys
from raypipe.sources.postgres.position import Position, lsn_of
from raypipe.sources.postgres.schema import Table


@contextmanager
def exact_moment(address: Address) -> Iterator[tuple[Session, Server, int]]:
    """A read transaction and the LSN that it stands at: it sees every commit before, and none after.

    Raises:
        Unavailable: a transaction that was running did not end in time, or no slot is free.
    """
    session = Session(address, "view", replication=True, answer_timeout_s=SLOT_TIMEOUT_S)
    try:
        server = read_server(session)
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        made = session.one(
            f'CREATE_REPLICATION_SLOT "raypipe_{uuid.uuid4().hex}" TEMPORARY LOGICAL pgoutput USE_SNAPSHOT'
        )
        yield session, server, lsn_of(made[1])
        with suppress(RaypipeError):
            session.run("COMMIT")
    finally:
        session.close()


class PostgresView:
    """Present rows of the chosen tables; see ``raypipe.contracts.SourceView`` and ``ComparesTables``.

    Args:
        instance: Name.
        session: In the transaction.
        captured: The chosen tables as it sees them.
        position: That it stands at.
    """

    def __init__(self, instance: str, session: Session, captured: Captured, position: Position) -> None:
        self.position = position.to_text()
        self._instance = instance
        self._parked: dict[str, int] = {}
        self._marker: Marker | None = None
        self._session = session
        self._captured = captured
        self._paths: Mapping[str, str] = {f"{instance}.{path.partition('.')[2]}": path for path in captured.paths}

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        """See ``raypipe.contracts.SourceView``. A table that was dropped has no rows."""
        found = self._captured.tables.get(self._path(table))
        if found is None:
            self._parked[table] = 0
            return
        parked = 0
        shape = self._captured.shape(found, 1)
        schema = shape.schema.arrow()
        for part in copy_rows(self._session, select_rows(found, shape), shape):
            require_whole_keys(part.misfits, shape.schema)
            batch = pa.RecordBatch.from_arrays(list(part.columns), schema=schema)
            if part.misfits is None:
                yield batch
                continue
            fits = part.misfits.places < 0
            parked += int(len(fits) - fits.sum())
            yield batch.filter(pa.array(fits))
        self._parked[table] = parked

    def parked(self, table: str) -> int:
        """See ``raypipe.contracts.SourceView``."""
        if table not in self._parked:
            for _ in self.rows(table):
                pass
        return self._parked[table]

    def checksums(self, table: str, chunks: int) -> Iterator[pa.RecordBatch]:
        """See ``raypipe.contracts.ComparesTables``; one pass over the table on the server."""
        found, shape = self._found(table)
        return read_checksums(self._session, self._captured.catalog, found, shape, chunks)

    def marks(self, table: str, chunks: int, chosen: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """See ``raypipe.contracts.ComparesTables``; another pass."""
        found, shape = self._found(table)
        return read_marks(self._session, self._captured.catalog, found, shape, chunks, chosen)

    def marks_of(self, table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        """See ``raypipe.contracts.ComparesTables``."""
        if self._marker is None:
            self._marker = Marker()
        return self._marker.marks(self._found(table)[1].schema, rows)

    def close(self) -> None:
        """Ends what was needed to compare; idempotent."""
        if self._marker is not None:
            self._marker.close()
            self._marker = None

    def _found(self, table: str) -> tuple[Table, Shape]:
        found = self._captured.tables.get(self._path(table))
        if found is None:
            raise SchemaMismatch(
                f"Table {table} is gone from the source.", remedy="Run the pipeline, which empties it."
            )
        return found, self._captured.shape(found, 1)

    def _path(self, table: str) -> str:
        if table not in self._paths:
            raise SchemaMismatch(
                f"Table {table!r} is not captured from source {self._instance!r}.",
                remedy=f"Captured: {', '.join(self._paths)}.",
            )
        return self._paths[table]
