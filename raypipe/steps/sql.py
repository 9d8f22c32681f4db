"""Runs a row-wise SQL step over batches of changes."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import LimitExceeded, SchemaMismatch, SqlError
from raypipe.model import BRANCH, IMAGE, OP, SYSTEM_FIELDS, ChangeBatch, Image, Op, TableSchema
from raypipe.plan.model import BranchPlan, StepPlan
from raypipe.plan.rewrite import CHANGES, ROW
from raypipe.plan.sandbox import Sandbox
from raypipe.steps.diagnose import failure

_SYSTEM = tuple(field.name for field in SYSTEM_FIELDS)


class SqlStep:
    """A view kept up to date by running its own SQL over the images of changed rows.

    Before and after images are computed alike, so the changes that come out say how the view changed: an update that
    leaves the WHERE loses its after image, and the before image alone is a delete. Images that hold no row (TRUNCATE,
    key only) never meet the SQL: it would compute on columns that are not there.

    Args:
        plan: Of the step.
        sandbox: To run in; one of its own if none is given. Shared by the steps of one thread.
    """

    def __init__(self, plan: StepPlan, sandbox: Sandbox | None = None) -> None:
        self.name = plan.name
        self.schema = plan.schema
        self._branches = plan.branches
        self._sandbox = sandbox or Sandbox()
        self._owns_sandbox = sandbox is None

    def apply(self, relation: str, batch: ChangeBatch) -> Iterator[ChangeBatch]:
        """Turns changes of one input into changes of the view, branch by branch, each in the order of the input.

        An update whose images turn out equal is kept as an update. A row that becomes several (unnest) gives several
        with one (commit, ordinal).

        Args:
            relation: The input, as users write it.
            batch: Its changes; under another schema version than the plan's, columns that came are ignored.

        Raises:
            SqlError: the SQL failed on a row, or a delete holds only the key and the view has none.
            SchemaMismatch: a column or the key that the step needs is gone, or its type became another.
            LimitExceeded: the SQL took too long or too much memory.
        """
        for branch in self._branches:
            if branch.relation == relation and batch.num_rows:
                self._check_version(branch, batch.schema)
                rows = self._run(branch, batch)
                if rows.num_rows:
                    yield ChangeBatch(self.schema, rows)

    def close(self) -> None:
        """Ends its sandbox if it has one of its own; idempotent."""
        if self._owns_sandbox:
            self._sandbox.close()

    def _run(self, branch: BranchPlan, batch: ChangeBatch) -> pa.RecordBatch:
        changes = batch.rows
        bare = _without_row(changes)
        if bare is None:
            rows, columns = self._view(branch, batch, np.arange(changes.num_rows))
        else:
            self._check_bare(branch, changes)
            whole, bare_rows = np.flatnonzero(~bare), np.flatnonzero(bare)
            rows, columns = self._view(branch, batch, whole)
            keys = self._keys(branch, changes.take(pa.array(bare_rows)))
            rows = np.concatenate([rows, bare_rows])
            columns = [pa.concat_arrays([a, b]) for a, b in zip(columns, keys, strict=True)]
        if np.any(rows[1:] < rows[:-1]):
            # Stable: the several rows that one row became stay in their order.
            order = np.argsort(rows, kind="stable")
            rows, columns = rows[order], [column.take(pa.array(order)) for column in columns]
        return self._assemble(branch, changes, rows, columns)

    def _view(self, branch: BranchPlan, batch: ChangeBatch, rows: np.ndarray) -> tuple[np.ndarray, list[pa.Array]]:
        """The view's rows for some full images: which change each comes from, and its columns."""
        changes = batch.rows.select(list(branch.columns))
        if len(rows) != changes.num_rows:
            changes = changes.take(pa.array(rows))
        table = pa.table([pa.array(rows), *changes.columns], names=[ROW, *branch.columns])
        self._sandbox.register(CHANGES, table)
        try:
            made = self._sandbox.query(branch.sql)
        except duckdb.Error as error:
            # Its text may hold values, so it must not be the cause either.
            raise failure(self._sandbox, self.schema, branch, batch.schema, error) from None
        except LimitExceeded as error:
            raise LimitExceeded(
                f"Step {self.name}: {error.message}",
                remedy="Simplify its SQL, or make epochs smaller.",
                step=self.name,
                **error.fields,  # type: ignore[arg-type]
            ) from error
        columns = [
            self._cast(_joined(made.column(index)), index - 1, batch.schema) for index in range(1, made.num_columns)
        ]
        return _joined(made.column(0)).to_numpy(), columns

    def _keys(self, branch: BranchPlan, changes: pa.RecordBatch) -> list[pa.Array]:
        """Columns for images without a row: the key (NULL in a TRUNCATE), everything else NULL."""
        inputs = dict(zip(self.schema.key, branch.key, strict=False))
        return [
            changes.column(inputs[column.name]).cast(column.type)
            if column.name in inputs
            else pa.nulls(changes.num_rows, column.type)
            for column in self.schema.columns
        ]

    def _assemble(
        self, branch: BranchPlan, changes: pa.RecordBatch, rows: np.ndarray, columns: list[pa.Array]
    ) -> pa.RecordBatch:
        system = changes.select(list(_SYSTEM))
        branches = self._branch_numbers(branch, changes) if self.schema.branches > 1 else None
        if not np.array_equal(rows, np.arange(changes.num_rows)):
            indices = pa.array(rows)
            system = system.take(indices)
            branches = branches.take(indices) if branches is not None else None
        arrays = [*system.columns, *([branches] if branches is not None else []), *columns]
        return pa.RecordBatch.from_arrays(arrays, schema=ChangeBatch.arrow_schema(self.schema))

    def _branch_numbers(self, branch: BranchPlan, changes: pa.RecordBatch) -> pa.Array:
        if BRANCH in changes.schema.names:
            return pc.add(changes.column(BRANCH), pa.scalar(branch.index, pa.int8()))
        return pa.array(np.full(changes.num_rows, branch.index, dtype=np.int8))

    def _cast(self, column: pa.Array, index: int, version: TableSchema) -> pa.Array:
        """A column in the type that the plan promised; only an input of another type than then makes it differ."""
        wanted = self.schema.columns[index]
        if column.type == wanted.type:
            return column
        try:
            # "007" would become 7: text is never read as something else, and nothing else may lose anything.
            if pa.types.is_string(column.type):
                raise pa.ArrowNotImplementedError
            return column.cast(wanted.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise SchemaMismatch(
                f"Step {self.name} was planned with column {wanted.name} as {wanted.type}, and {version.table} as of "
                f"schema version {version.version} makes it {column.type}.",
                remedy="Cast it in the step's SQL, or restart the pipeline to plan and load the step again.",
                step=self.name,
                table=str(version.table),
                column=wanted.name,
                version=version.version,
            ) from None

    def _check_version(self, branch: BranchPlan, version: TableSchema) -> None:
        """The input still has what the plan needs."""
        for column in (*branch.columns, *branch.key):
            if column not in version.names:
                raise SchemaMismatch(
                    f"Step {self.name} needs column {column} of {version.table}, which is gone since schema version "
                    f"{version.version}; there are: {', '.join(version.names)}.",
                    remedy="Change the step's SQL, or bring the column back.",
                    step=self.name,
                    table=str(version.table),
                    column=column,
                    version=version.version,
                )
        if self.schema.key and set(branch.key) != set(version.key):
            raise SchemaMismatch(
                f"Step {self.name} relies on the key ({', '.join(branch.key)}) of {version.table}, which is "
                f"({', '.join(version.key)}) since schema version {version.version}.",
                remedy="Restart the pipeline to plan and load the step again.",
                step=self.name,
                table=str(version.table),
                version=version.version,
            )

    def _check_bare(self, branch: BranchPlan, changes: pa.RecordBatch) -> None:
        """Key images can be followed by key only; partial ones not at all."""
        images = changes.column(IMAGE)
        truncate = pc.equal(changes.column(OP), int(Op.TRUNCATE))
        without_row = images.filter(pc.invert(truncate))
        if pc.any(pc.equal(without_row, int(Image.PARTIAL))).as_py():
            raise SqlError(
                f"Step {self.name} got a partial image of a row of {branch.relation}; it needs whole rows.",
                remedy="Let the source send full row images.",
                step=self.name,
                table=branch.relation,
            )
        if not self.schema.key and pc.any(pc.equal(without_row, int(Image.KEY))).as_py():
            raise SqlError(
                f"Step {self.name} has no key, and {branch.relation} deleted a row telling nothing but its key.",
                remedy="Select the key columns unchanged, or let the source send full row images.",
                step=self.name,
                table=branch.relation,
            )


def _without_row(changes: pa.RecordBatch) -> np.ndarray | None:
    """Marks images that hold no row, None if there are none."""
    truncate = changes.column(OP).to_numpy() == int(Op.TRUNCATE)
    bare: np.ndarray = truncate | (changes.column(IMAGE).to_numpy() != int(Image.FULL))
    return bare if bare.any() else None


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
