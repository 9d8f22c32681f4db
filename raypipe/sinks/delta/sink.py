"""A Delta table as a sink: an epoch is staged, reduced, and becomes one commit of the table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import faults
from raypipe.contracts import SinkContents
from raypipe.errors import Conflict, InvariantBroken, OutcomeUnknown, RaypipeError, SchemaMismatch
from raypipe.model import OP, ChangeBatch, Committed, Epoch, Mode, Op, SinkTable, TableSchema, TableState
from raypipe.sinks.delta.change import present, recorded
from raypipe.sinks.delta.contents import DeltaContents
from raypipe.sinks.delta.failures import says_why
from raypipe.sinks.delta.lake import Lake
from raypipe.sinks.delta.layout import STORE, check, columns_of, shape_mark, staged_rows, table_columns, view_mark
from raypipe.sinks.delta.ownership import Held, Ownership
from raypipe.sinks.delta.reduce import spread_of
from raypipe.sinks.delta.stage import STAGE_FOLDER, Stage, remove
from raypipe.sinks.delta.upkeep import tend
from raypipe.sinks.netting import drop_awaited
from raypipe.sinks.types import widened

logger = logging.getLogger(__name__)

# Openings that lose a race against each other; the generations decide it long before.
_CLAIM_ATTEMPTS = 5


@dataclass(kw_only=True)
class _Work:
    """The epoch in hand."""

    epoch: Epoch
    schema: TableSchema
    stage: Stage
    awaiting: frozenset[int]
    columns: pa.Schema


class DeltaSink:
    """One table of a Delta sink; the contract is ``raypipe.contracts.Sink``."""

    def __init__(self, *, sink: str, pipeline: str, path: Path, table: SinkTable) -> None:
        self.name = f"{sink}.{table.name}"
        self.tables: tuple[SinkTable, ...] = (table,)
        self._table = table
        self._path = path
        self._ownership = Ownership.of(pipeline, sink, path, table)
        self._schema = table.schema
        self._generation = 0
        self._held: Held | None = None
        self._work: _Work | None = None

    def open(self, generation: int) -> Committed:
        """Makes or claims the table; see the contract."""
        self.close()
        wanted = check(self._table)
        for _ in range(_CLAIM_ATTEMPTS):
            try:
                with says_why(self.name, self._path):
                    self._held = self._ownership.claim(generation, wanted)
            except Conflict:
                continue  # somebody else opened it at the same time: look again whose generation is higher
            self._generation, self._schema = generation, self._table.schema
            remove(self._path / STAGE_FOLDER)
            faults.point("sink.open.after")
            return self._committed(self._held)
        raise Conflict(f"Sink {self.name} is being opened by others all the time.", sink=self.name)

    def begin(self, epoch: Epoch) -> None:
        """Starts to stage an epoch."""
        self.abort()
        held = self._known()
        after = epoch.after.number if epoch.after is not None else 0
        if held.marks.cut not in (after, epoch.number) and held.marks.cut < epoch.number:
            raise InvariantBroken(
                f"Sink {self.name} holds cut {held.marks.cut}; cut {after} would not go on from there."
            )
        self._work = _Work(
            epoch=epoch,
            schema=self._schema,
            stage=self._new_stage(epoch, self._schema),
            awaiting=held.marks.awaiting,
            columns=held.columns,
        )

    def write(self, table: str, batch: ChangeBatch) -> None:
        """Stages changes."""
        work = self._in_hand()
        if table != self._table.name:
            raise InvariantBroken(f"Sink {self.name} has no table {table}.")
        batch, work.awaiting = drop_awaited(self._identified(batch), work.awaiting)
        if batch.num_rows and self._known().marks.cut < work.epoch.number:
            self._follow_key(work, batch)
            arriving = table_columns(self._table, columns_of(batch.schema.arrow(), table))
            work.columns = widened(work.columns, arriving, table, STORE)
            with says_why(self.name, self._path):
                rows = staged_rows(self._table, batch)
                self._refuse_empty_partition_text(rows)
                work.stage.add(rows)
        faults.point("sink.write.after")

    def commit(self) -> Committed:
        """Makes the epoch one commit of the table."""
        work, held = self._in_hand(), self._known()
        faults.point("sink.commit.before")
        with says_why(self.name, self._path):
            lake, marks = self._ownership.loaded(self._generation)
            ahead = self._ownership.look(lake) if marks.cut >= work.epoch.number else None
        if ahead is None and replace(marks, generation=held.marks.generation) != held.marks:
            raise Conflict(f"Somebody else changed what {self._path} says of sink {self.name}.", sink=self.name)
        self._held = ahead or self._commit(lake, work, held)
        self._schema = work.schema
        self.abort()
        faults.point("sink.commit.after")
        return self._committed(self._held)

    def abort(self) -> None:
        """Drops the epoch in hand."""
        work, self._work = self._work, None
        if work is not None:
            work.stage.discard()

    def rest(self) -> None:
        """Nothing to let go of: a Delta table has no locks."""

    @contextmanager
    def contents(self) -> Iterator[SinkContents]:
        """Reads the newest version."""
        with says_why(self.name, self._path):
            lake = self._ownership.load()
            nothing = Committed(cut=None, generation=0, tables={})
            committed = nothing if lake is None else self._committed(self._ownership.look(lake))
        yield DeltaContents(self.name, self._path, self._table, lake, committed)

    def close(self) -> None:
        """Drops what is staged; the library keeps nothing open."""
        self.abort()
        self._held = None

    def _new_stage(self, epoch: Epoch, schema: TableSchema) -> Stage:
        folder = self._path / STAGE_FOLDER / f"{self._generation}-{epoch.number}"
        return Stage(folder, None if self._table.mode is Mode.HISTORY else spread_of(schema))

    def _identified(self, batch: ChangeBatch) -> ChangeBatch:
        """The batch with the key the user gave to a relation that has none of its own."""
        if batch.schema.key or not self._table.schema.key:
            return batch
        return ChangeBatch(schema=replace(batch.schema, key=self._table.schema.key), rows=batch.rows)

    def _follow_key(self, work: _Work, batch: ChangeBatch) -> None:
        """Takes over the key of a source table that was made anew; its load begins with a TRUNCATE, so nothing is lost.

        Raises:
            SchemaMismatch: rows that were identified by another key are still there.
        """
        if batch.schema.key == work.schema.key or self._table.mode is Mode.HISTORY:
            return
        first = batch.rows.column(OP)[0].as_py()
        if first != Op.TRUNCATE or batch.schema.branches > 1:
            raise SchemaMismatch(
                f"Changes of table {self._table.name} of sink {self.name} have another key than its rows.",
                remedy="Start the run again, so that it is planned anew.",
                sink=self.name,
                table=self._table.name,
            )
        work.stage.discard()
        work.schema = batch.schema
        work.stage = self._new_stage(work.epoch, work.schema)

    def _commit(self, lake: Lake, work: _Work, held: Held) -> Held:
        shape = shape_mark(self._table.mode, work.schema)
        marks = replace(held.marks, cut=work.epoch.number, awaiting=work.awaiting, shape=shape)
        cut = work.epoch.upto
        with says_why(self.name, self._path):
            self._ownership.make_room(lake, work.columns, self._generation, held.cut)
            if faults.armed("mutant.cut_before_data"):
                lake.note(self._ownership.marks(marks, cut))
            if self._table.mode is Mode.HISTORY:
                change = recorded(lake, work.stage)
            else:
                change = present(lake, work.stage, work.schema, work.columns, self._path / STAGE_FOLDER)
            version = lake.version
        faults.point("sink.commit.data")
        try:
            with says_why(self.name, self._path):
                change(self._ownership.marks(marks, cut))
        except RaypipeError as error:
            return self._read_back(error, work.epoch)
        self._tend(lake, version)
        return Held(marks=marks, cut=cut, columns=work.columns)

    def _tend(self, lake: Lake, before: int) -> None:
        """Tidies up; the epoch is durable already, so that a failure is only told."""
        try:
            with says_why(self.name, self._path):
                tend(lake, before)
        except RaypipeError as error:
            logger.warning("delta table was not tidied up", extra={"sink": self.name, "kind": error.kind.value})

    def _read_back(self, error: RaypipeError, epoch: Epoch) -> Held:
        """What the table holds after a commit that failed, if that is the epoch; else raises.

        Raises:
            Fenced: somebody else owns the table.
            OutcomeUnknown: the table cannot be read.
            RaypipeError: the error given; the table shows that nothing was written.
        """
        try:
            with says_why(self.name, self._path):
                lake = self._ownership.load()
                held = None if lake is None else self._ownership.look(lake)
        except RaypipeError:
            raise OutcomeUnknown(
                f"Sink {self.name} cannot tell whether its commit of cut {epoch.number} is in {self._path}.",
                cause=error,
                sink=self.name,
            ) from error
        if held is not None:
            self._ownership.check_fence(held.marks, self._generation)
            if held.marks.cut >= epoch.number:
                return held
        raise error

    def _committed(self, held: Held) -> Committed:
        planned = held.marks.view == view_mark(self._table.view)
        state = TableState(
            view=self._table.view if planned else f"unknown {held.marks.view:x}", awaiting=held.marks.awaiting
        )
        return Committed(cut=held.cut, generation=held.marks.generation, tables={self._table.name: state})

    def _refuse_empty_partition_text(self, rows: pa.Table) -> None:
        """Delta writes the value of a partition as text in which empty means NULL, so an empty text would be lost."""
        for name in self._table.partition_by:
            known = name in rows.column_names and pa.types.is_string(rows[name].type)
            if known and pc.any(pc.equal(rows[name], "")).as_py():
                raise SchemaMismatch(
                    f"Column {name}, by which table {self._table.name} of sink {self.name} is partitioned, "
                    f"holds an empty text, and {STORE} cannot tell it from NULL in a partition.",
                    remedy=f"Partition by another column, or use NULLIF({name}, '') in the step's SQL.",
                    sink=self.name,
                    table=self._table.name,
                    column=name,
                )

    def _known(self) -> Held:
        if self._held is None:
            raise InvariantBroken(f"Sink {self.name} is not open.")
        return self._held

    def _in_hand(self) -> _Work:
        if self._work is None:
            raise InvariantBroken(f"Sink {self.name} has no epoch in hand.")
        return self._work
