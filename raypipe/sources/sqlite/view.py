"""The captured tables as one read transaction saw them: the oracle's input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from raypipe.errors import SchemaMismatch
from raypipe.sources.sqlite.decode import Part, decode
from raypipe.sources.sqlite.install import Capture
from raypipe.sources.sqlite.spool import Spool

# Of one batch: some tens of megabytes at most for rows of a usual width.
BATCH_ROWS = 65_536


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
