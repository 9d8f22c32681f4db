"""Whose a Delta table is: it is made or claimed for one table of one sink, and everybody else is kept out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties

from raypipe import faults
from raypipe.errors import Conflict, Fenced, SchemaMismatch
from raypipe.model import Cut, SinkTable
from raypipe.sinks.delta.lake import Lake
from raypipe.sinks.delta.layout import STORE, shape_mark, view_mark
from raypipe.sinks.delta.marks import (
    Marks,
    owner_of,
    read_cut,
    read_marks,
    without_fence,
    write_generation,
    write_marks,
)
from raypipe.sinks.types import widened


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the table held when last looked at."""

    marks: Marks
    cut: Cut | None
    columns: pa.Schema


class Ownership:
    """Of one table.

    Args:
        sink: Name of the unit of commit.
        owner: That the table must name (``marks.owner_of``).
        path: Of the table.
        table: As planned.
    """

    def __init__(self, *, sink: str, owner: str, path: Path, table: SinkTable) -> None:
        self._sink = sink
        self._owner = owner
        self._path = path
        self._table = table

    @classmethod
    def of(cls, pipeline: str, sink: str, path: Path, table: SinkTable) -> Ownership:
        """That of a sink of a pipeline."""
        return cls(sink=f"{sink}.{table.name}", owner=owner_of(pipeline, sink, table.name), path=path, table=table)

    def claim(self, generation: int, wanted: pa.Schema) -> Held:
        """Makes the table, or makes it this generation's with room for the columns wanted.

        Raises:
            Fenced: it belongs to a higher generation.
            Conflict: somebody else claimed it at the same time.
            SchemaMismatch: something else is there, or its columns cannot become those wanted.
        """
        lake, table = self.load(), self._table
        anew = Marks(
            generation=generation,
            view=view_mark(table.view),
            shape=shape_mark(table.mode, table.schema),
            awaiting=frozenset(range(table.schema.branches)),
        )
        if lake is None:
            Lake.create(self._path, wanted, table.partition_by, self._owner, self.marks(anew, None))
            return Held(marks=anew, cut=None, columns=wanted)
        held = self.look(lake)
        self.check_fence(held.marks, generation)
        if (held.marks.view, held.marks.shape) != (anew.view, anew.shape):
            anew = replace(anew, cut=held.marks.cut)
            lake.make_anew(wanted, table.partition_by, self.marks(anew, held.cut))
            return Held(marks=anew, cut=held.cut, columns=wanted)
        columns = widened(held.columns, wanted, table.name, STORE)
        lake.note(self.fence(generation, held.cut))
        self.make_room(lake, columns, generation, held.cut)
        return Held(marks=replace(held.marks, generation=generation), cut=held.cut, columns=columns)

    def load(self) -> Lake | None:
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

    def loaded(self, generation: int) -> tuple[Lake, Marks]:
        """The table before a commit of this generation.

        Raises:
            Fenced: a higher generation has claimed it.
            Conflict: it is gone.
        """
        lake = self.load()
        if lake is None:
            raise Conflict(
                f"The Delta table {self._path} was removed while sink {self._sink} used it.", sink=self._sink
            )
        marks = read_marks(lake.delta, self._owner, self._table.schema)
        self.check_fence(marks, generation)
        return lake, marks

    def look(self, lake: Lake) -> Held:
        """What the table holds."""
        marks = read_marks(lake.delta, self._owner, self._table.schema)
        return Held(marks=marks, cut=read_cut(lake.delta, marks.cut), columns=lake.columns)

    def check_fence(self, marks: Marks, generation: int) -> None:
        """Lets nobody write whose successor has claimed the table.

        Raises:
            Fenced: it belongs to a higher generation.
        """
        if marks.generation > generation and not faults.armed("mutant.no_fence"):
            raise Fenced(
                f"Sink {self._sink} belongs to generation {marks.generation}; this writer is generation {generation}.",
                remedy="Let only one run of a pipeline be at work.",
                sink=self._sink,
                generation=generation,
            )

    def make_room(self, lake: Lake, columns: pa.Schema, generation: int, cut: Cut | None) -> None:
        """Adds and widens columns in a commit of its own: it changes no value, so an epoch that fails may leave it."""
        present = lake.columns
        kept = pa.schema([columns.field(name) for name in present.names])
        if kept != present or lake.partition_by != self._table.partition_by:
            lake.reshape(columns, self._table.partition_by, self.fence(generation, cut))
        elif len(columns) > len(present):
            added = pa.schema([field for field in columns if field.name not in present.names])
            lake.add_columns(added, self.fence(generation, cut))

    def marks(self, marks: Marks, cut: Cut | None) -> CommitProperties:
        """What a commit that changes rows carries."""
        if faults.armed("mutant.no_fence"):
            return without_fence(self._owner, marks, self._table.schema, cut)
        return write_marks(self._owner, marks, self._table.schema, cut)

    def fence(self, generation: int, cut: Cut | None) -> CommitProperties:
        """What a commit that leaves the rows as they are carries."""
        return write_generation(self._owner, generation, cut)

    def _not_ours(self, what: str) -> SchemaMismatch:
        return SchemaMismatch(
            f"Sink {self._sink} is to write {self._path}, which {what}.",
            remedy="Move it away, or give the sink or the table another name or folder.",
            sink=self._sink,
            table=self._table.name,
        )
