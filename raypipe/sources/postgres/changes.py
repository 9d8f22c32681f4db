"""Makes batches of what the stream brings: loads leave out what they have, and what was not sent is completed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.model import ChangeBatch
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.backfilling import Backfiller
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.completing import Round
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.decode import Decoded, decode
from raypipe.sources.postgres.events import Rows
from raypipe.sources.postgres.gathering import Gathered
from raypipe.sources.postgres.parking import add_fitting, path_of_schema
from raypipe.sources.postgres.position import Position
from raypipe.sources.postgres.snapshot import Passing


class Changes:
    """From runs of rows to batches. Used by one thread.

    Args:
        instance: Name.
        address: Of the database.
        session: For statements.
        captured: The chosen tables.
        backfiller: Hears which keys go by.
    """

    def __init__(
        self, instance: str, address: Address, session: Session, captured: Captured, backfiller: Backfiller
    ) -> None:
        self._instance = instance
        self._address = address
        self._session = session
        self._captured = captured
        self._backfiller = backfiller
        self.round: Round | None = None

    def add(self, rows: Rows, position: Position, gathered: Gathered, limit: Position | None) -> Position:
        """Adds the changes of every captured table to the piece; returns the position, which knows what was parked."""
        for changes in decode(rows, self._captured.shapes):
            decoded = self._passing(changes, rows, position)
            if self._backfiller.held is not None:
                self._backfiller.touch(path_of_schema(decoded.schema), decoded.rows)
            if decoded.absent is not None and decoded.absent.any():
                decoded, position = self._completed(decoded, position, limit)
            position = add_fitting(gathered, position, ChangeBatch(decoded.schema, decoded.rows), decoded.misfits)
        return position

    def end_round(self) -> None:
        """Nothing after this place is completed from what the round sees; idempotent."""
        if self.round is not None:
            self.round.close()
            self.round = None

    def _passing(self, decoded: Decoded, rows: Rows, position: Position) -> Decoded:
        """Of a table that is loading, only the changes that belong to its loaded part."""
        path = path_of_schema(decoded.schema)
        load, table = position.loading.get(path), self._captured.tables.get(path)
        if load is None or table is None:
            return decoded
        images = decoded.rows
        xids = rows.transactions.xid[rows.transaction[decoded.row]]
        passing = Passing(session=self._session, table=table, load=load)
        keep = passing.mask(dict(zip(images.schema.names, images.columns, strict=True)), xids)
        return decoded if keep.all() else _chosen(decoded, keep)

    def _completed(self, decoded: Decoded, position: Position, limit: Position | None) -> tuple[Decoded, Position]:
        if self.round is None:
            self.round = Round(self._instance, self._address, limit)
            position = replace(position, until=max(position.until, self.round.lsn))
        return self.round.complete(decoded, self._captured), position


def _chosen(decoded: Decoded, keep: npt.NDArray[np.bool_]) -> Decoded:
    return Decoded(
        schema=decoded.schema,
        rows=decoded.rows.filter(pa.array(keep)),
        row=decoded.row[keep],
        absent=None if decoded.absent is None else decoded.absent[keep],
        misfits=None if decoded.misfits is None else decoded.misfits.filter(keep),
    )
