"""The captured tables as one read transaction saw them: the oracle's input."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from raypipe.errors import SchemaMismatch
from raypipe.sources.sqlite.connect import reading
from raypipe.sources.sqlite.decode import Part, decode
from raypipe.sources.sqlite.install import Capture, read_captures, schema_cookie
from raypipe.sources.sqlite.position import Position
from raypipe.sources.sqlite.reader import SCHEMA_TRIES, in_force, in_line, restless
from raypipe.sources.sqlite.snapshot import fill_table
from raypipe.sources.sqlite.spool import Spool
from raypipe.sources.sqlite.stream import read_clock, read_mark

# Of one batch: some tens of megabytes at most for rows of a usual width.
BATCH_ROWS = 65_536


def take_view(instance: str, connection: sqlite3.Connection, spool: Spool, tables: Sequence[str]) -> SqliteView:
    """Copies the tables in one read transaction, together with its position.

    Raises:
        SourceGap: the source has no capture, so the moment has no position.
        Unavailable: locked, or no space for the copy.
    """
    for _ in range(SCHEMA_TRIES):
        with reading(connection):
            read_clock(connection, instance)
        cookie = in_line(connection, instance, tables, seen_whole=None)
        with spool.gathering():
            if schema_cookie(connection) != cookie:
                continue  # altered in between
            clock = read_clock(connection, instance)
            captures = in_force(read_captures(connection, tables))
            rows = {capture.number: fill_table(spool, capture, clock.seq) for capture in captures.values()}
            position = Position(
                identity=clock.identity,
                seq=clock.seq,
                mark=read_mark(connection, clock.seq) or 0,
                tables=tuple(tables),
            )
        chosen = {table: captures.get(table) for table in tables}
        return SqliteView(instance, position.to_text(), spool, chosen, rows)
    raise restless(instance)


class SqliteView:
    """Present rows, copied into the spool in that transaction: no lock is held while they are looked at."""

    def __init__(
        self,
        instance: str,
        position: str,
        spool: Spool,
        captures: Mapping[str, Capture | None],
        rows: Mapping[int, int],
    ) -> None:
        self.position = position
        self._instance = instance
        self._spool = spool
        self._captures = captures
        self._rows = rows
        self._parked: dict[str, int] = {}

    def rows(self, table: str) -> Iterator[pa.RecordBatch]:
        """See ``raypipe.contracts.SourceView``. A table that was dropped has no rows."""
        capture = self._capture(table)
        if capture is None:
            self._parked[table] = 0
            return
        schema = capture.shape.schema(self._instance, capture.version).arrow()
        parked = 0
        for part in self._parts(capture):
            decoded = decode(part)
            fits = decoded.misfits < 0
            parked += int(np.count_nonzero(~fits))
            batch = pa.RecordBatch.from_arrays(list(decoded.columns), schema=schema)
            yield batch if fits.all() else batch.filter(pa.array(fits))
        self._parked[table] = parked

    def parked(self, table: str) -> int:
        """See ``raypipe.contracts.SourceView``."""
        if table not in self._parked:
            for _ in self.rows(table):
                pass
        return self._parked[table]

    def _capture(self, table: str) -> Capture | None:
        name = table.removeprefix(f"{self._instance}.")
        if name not in self._captures:
            raise SchemaMismatch(
                f"Table {table!r} is not captured from source {self._instance!r}.",
                remedy=f"Captured: {', '.join(self._captures)}.",
            )
        return self._captures[name]

    def _parts(self, capture: Capture) -> Iterator[Part]:
        total = self._rows.get(capture.number, 0)
        for first in range(1, total + 1, BATCH_ROWS):
            yield Part(
                spool=self._spool,
                number=capture.number,
                shape=capture.shape,
                first=first,
                rows=min(BATCH_ROWS, total - first + 1),
            )
