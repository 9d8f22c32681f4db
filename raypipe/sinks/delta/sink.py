"""A Delta table as a sink: an epoch is staged, reduced, and becomes one commit of the table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties

from raypipe import faults
from raypipe.contracts import SinkContents
from raypipe.errors import Conflict, Fenced, InvariantBroken, OutcomeUnknown, RaypipeError, SchemaMismatch
from raypipe.model import OP, ChangeBatch, Committed, Cut, Epoch, Mode, Op, SinkTable, TableSchema, TableState
from raypipe.sinks.delta import merge
from raypipe.sinks.delta.contents import DeltaContents
from raypipe.sinks.delta.failures import says_why
from raypipe.sinks.delta.lake import Lake
from raypipe.sinks.delta.layout import STORE, check, columns_of, shape_mark, staged_rows, table_columns, view_mark
from raypipe.sinks.delta.marks import (
    Marks,
    owner_of,
    read_cut,
    read_marks,
    without_fence,
    write_generation,
    write_marks,
)
from raypipe.sinks.delta.reduce import Counts, Reduced, Touched, present_rows, reduce_keyed, reduce_multiset, spread_of
from raypipe.sinks.delta.stage import STAGE_FOLDER, Spool, Stage, remove
from raypipe.sinks.delta.upkeep import tend
from raypipe.sinks.netting import drop_awaited, identity_columns
from raypipe.sinks.types import widened

logger = logging.getLogger(__name__)

Change = Callable[[CommitProperties], None]
"""Commits the change of an epoch, together with the marks given."""

# Openings that lose a race against each other; the generations decide it long before.
_CLAIM_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class _Held:
    """What the table held when last looked at."""

    marks: Marks
    cut: Cut | None
    columns: pa.Schema


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
        self._owner = owner_of(pipeline, sink, table.name)
        self._schema = table.schema
        self._generation = 0
        self._held: _Held | None = None
        self._work: _Work | None = None

    def open(self, generation: int) -> Committed:
        """Makes or claims the table; see the contract."""
        self.close()
        wanted = check(self._table)
        for _ in range(_CLAIM_ATTEMPTS):
            try:
                with says_why(self.name, self._path):
                    self._held = self._claim(generation, wanted)
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
            lake, marks = self._as_it_is()
            ahead = self._look(lake) if marks.cut >= work.epoch.number else None
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
            lake = self._load()
            nothing = Committed(cut=None, generation=0, tables={})
            committed = nothing if lake is None else self._committed(self._look(lake))
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

    def _claim(self, generation: int, wanted: pa.Schema) -> _Held:
        lake, table = self._load(), self._table
        anew = Marks(
            generation=generation,
            view=view_mark(table.view),
            shape=shape_mark(table.mode, table.schema),
            awaiting=frozenset(range(table.schema.branches)),
        )
        if lake is None:
            Lake.create(self._path, wanted, table.partition_by, self._owner, self._marks(anew, None))
            return _Held(marks=anew, cut=None, columns=wanted)
        held = self._look(lake)
        self._check_fence(held.marks, generation)
        if (held.marks.view, held.marks.shape) != (anew.view, anew.shape):
            anew = replace(anew, cut=held.marks.cut)
            lake.make_anew(wanted, table.partition_by, self._marks(anew, held.cut))
            return _Held(marks=anew, cut=held.cut, columns=wanted)
        columns = widened(held.columns, wanted, table.name, STORE)
        lake.note(self._fence(generation, held.cut))
        self._make_room(lake, columns, self._fence(generation, held.cut))
        return _Held(marks=replace(held.marks, generation=generation), cut=held.cut, columns=columns)

    def _as_it_is(self) -> tuple[Lake, Marks]:
        """The table before a commit.

        Raises:
            Fenced: a higher generation has claimed it.
            Conflict: it is gone.
        """
        lake = self._load()
        if lake is None:
            raise Conflict(f"The Delta table {self._path} was removed while sink {self.name} used it.", sink=self.name)
        marks = read_marks(lake.delta, self._owner, self._table.schema)
        self._check_fence(marks, self._generation)
        return lake, marks

    def _commit(self, lake: Lake, work: _Work, held: _Held) -> _Held:
        shape = shape_mark(self._table.mode, work.schema)
        marks = replace(held.marks, cut=work.epoch.number, awaiting=work.awaiting, shape=shape)
        cut = work.epoch.upto
        with says_why(self.name, self._path):
            self._make_room(lake, work.columns, self._fence(self._generation, held.cut))
            if faults.armed("mutant.cut_before_data"):
                lake.note(self._marks(marks, cut))
            change = self._change(lake, work)
            version = lake.version
        faults.point("sink.commit.data")
        try:
            with says_why(self.name, self._path):
                change(self._marks(marks, cut))
        except RaypipeError as error:
            return self._read_back(error, work.epoch)
        self._tend(lake, version)
        return _Held(marks=marks, cut=cut, columns=work.columns)

    def _change(self, lake: Lake, work: _Work) -> Change:
        """The one commit that brings the table to the epoch's end."""
        if not work.stage.num_rows:
            return lake.note
        if self._table.mode is Mode.HISTORY:
            return partial(lake.append, work.stage.tables())
        reduced = self._reduced(lake, work)
        present = present_rows(reduced.rows)
        if not reduced.rows.num_rows and not reduced.truncated:
            return lake.note
        if len(reduced.truncated) == work.schema.branches:
            return partial(lake.replace, present)
        if lake.is_empty() or not (reduced.gone or reduced.truncated or work.schema.key):
            return partial(lake.append, present)
        touched = Touched() if reduced.truncated else reduced.touched
        if work.schema.key:
            on = merge.meets_identity(identity_columns(work.schema), touched)
        else:
            on = merge.meets_copies(lake.columns.names, touched)
        return partial(lake.merge, reduced.rows, on, reduced.truncated)

    def _reduced(self, lake: Lake, work: _Work) -> Reduced:
        schema, partition_by = work.schema, lake.partition_by
        if schema.key:
            return reduce_keyed(work.stage, schema, work.columns, partition_by)

        def copies(rows: Spool, touched: Touched) -> Counts:
            names = work.columns.names
            held = lake.scan(names, merge.within(touched, merge.quoted))
            return merge.count_copies(held, rows, names, self._path / STAGE_FOLDER)

        return reduce_multiset(work.stage, schema, work.columns, partition_by, copies)

    def _make_room(self, lake: Lake, columns: pa.Schema, fence: CommitProperties) -> None:
        """Adds and widens columns in a commit of its own: it changes no value, so an epoch that fails may leave it."""
        present = lake.columns
        kept = pa.schema([columns.field(name) for name in present.names])
        if kept != present or lake.partition_by != self._table.partition_by:
            lake.reshape(columns, self._table.partition_by, fence)
        elif len(columns) > len(present):
            lake.add_columns(pa.schema([field for field in columns if field.name not in present.names]), fence)

    def _tend(self, lake: Lake, before: int) -> None:
        """Tidies up; the epoch is durable already, so that a failure is only told."""
        try:
            with says_why(self.name, self._path):
                tend(lake, before)
        except RaypipeError as error:
            logger.warning("delta table was not tidied up", extra={"sink": self.name, "kind": error.kind.value})

    def _read_back(self, error: RaypipeError, epoch: Epoch) -> _Held:
        """What the table holds after a commit that failed, if that is the epoch; else raises.

        Raises:
            Fenced: somebody else owns the table.
            OutcomeUnknown: the table cannot be read.
            RaypipeError: the error given; the table shows that nothing was written.
        """
        try:
            with says_why(self.name, self._path):
                lake = self._load()
                held = None if lake is None else self._look(lake)
        except RaypipeError:
            raise OutcomeUnknown(
                f"Sink {self.name} cannot tell whether its commit of cut {epoch.number} is in {self._path}.",
                cause=error,
                sink=self.name,
            ) from error
        if held is not None:
            self._check_fence(held.marks, self._generation)
            if held.marks.cut >= epoch.number:
                return held
        raise error

    def _load(self) -> Lake | None:
        """The table; None if it is not there yet.

        Raises:
            SchemaMismatch: something else is there.
        """
        lake = Lake.load(self._path)
        if lake is None:
            if self._path.is_dir() and any(entry.name[0] not in "_." for entry in self._path.iterdir()):
                raise self._not_ours("holds files that raypipe did not make")
            return None
        if lake.owner != self._owner:
            raise self._not_ours(
                f"belongs to {lake.owner}" if lake.owner else "is a Delta table that raypipe did not make"
            )
        return lake

    def _not_ours(self, what: str) -> SchemaMismatch:
        return SchemaMismatch(
            f"Sink {self.name} is to write {self._path}, which {what}.",
            remedy="Move it away, or give the sink or the table another name or folder.",
            sink=self.name,
            table=self._table.name,
        )

    def _look(self, lake: Lake) -> _Held:
        marks = read_marks(lake.delta, self._owner, self._table.schema)
        return _Held(marks=marks, cut=read_cut(lake.delta, marks.cut), columns=lake.columns)

    def _committed(self, held: _Held) -> Committed:
        planned = held.marks.view == view_mark(self._table.view)
        state = TableState(
            view=self._table.view if planned else f"unknown {held.marks.view:x}", awaiting=held.marks.awaiting
        )
        return Committed(cut=held.cut, generation=held.marks.generation, tables={self._table.name: state})

    def _check_fence(self, marks: Marks, generation: int) -> None:
        if marks.generation > generation and not faults.armed("mutant.no_fence"):
            raise Fenced(
                f"Sink {self.name} belongs to generation {marks.generation}; this writer is generation {generation}.",
                remedy="Let only one run of a pipeline be at work.",
                sink=self.name,
                generation=generation,
            )

    def _marks(self, marks: Marks, cut: Cut | None) -> CommitProperties:
        if faults.armed("mutant.no_fence"):
            return without_fence(self._owner, marks, self._table.schema, cut)
        return write_marks(self._owner, marks, self._table.schema, cut)

    def _fence(self, generation: int, cut: Cut | None) -> CommitProperties:
        return write_generation(self._owner, generation, cut)

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

    def _known(self) -> _Held:
        if self._held is None:
            raise InvariantBroken(f"Sink {self.name} is not open.")
        return self._held

    def _in_hand(self) -> _Work:
        if self._work is None:
            raise InvariantBroken(f"Sink {self.name} has no epoch in hand.")
        return self._work
