"""A pipeline's stateful steps without its processes: tables that change, views that are kept, DuckDB that knows better.

Tables stand in a DuckDB of their own, where each view's SQL is run as a whole. The views go the way that they go in a
pipeline: change batches in, state in a folder, change batches out, which are applied to a table for each view.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.harness import CannotRun
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Cut, Image, Op, TableSchema
from raypipe.plan import InstancePlan, Plan, StepPlan, compile_step, oracle_sql, order_steps
from raypipe.state import Limits, Store
from raypipe.steps import Needs, SqlStep, Views

# What is equal to nine digits is equal: two sums of the same floating point numbers in another order are.
RELATIVE = 1e-9
_WEIGHTS = np.array([op.weight for op in Op])


class Tables:
    """Source tables, and what changed since the last cut.

    Args:
        schemas: Of the tables, all of one instance.
    """

    def __init__(self, schemas: Sequence[TableSchema]) -> None:
        self.schemas = {str(schema.table): schema for schema in schemas}
        self._changes: dict[str, list[tuple[pa.Table, npt.NDArray[np.int8]]]] = {name: [] for name in self.schemas}
        self.database = duckdb.connect(config={"threads": 1})
        self.database.execute("SET TimeZone = 'UTC'")
        self.database.execute("SET preserve_insertion_order = false")
        for instance in {schema.table.instance for schema in schemas}:
            self.database.execute(f"CREATE SCHEMA {instance}")
        for name, schema in self.schemas.items():
            self.database.register("_rows", schema.arrow().empty_table())
            self.database.execute(f"CREATE TABLE {name} AS SELECT * FROM _rows")

    def load(self, name: str, rows: pa.Table) -> None:
        """Replaces a table, as a snapshot does."""
        self._load(name, rows)
        self.database.execute(f"DELETE FROM {name}")
        self._insert(name, rows)

    def reload(self) -> None:
        """Tells all tables again, as they are."""
        for name in self.schemas:
            self._load(name, self.rows(f"SELECT * FROM {name}"))

    def insert(self, name: str, rows: pa.Table) -> None:
        """Adds rows, whose keys are new."""
        self._note(name, rows, Op.INSERT)
        self._insert(name, rows)

    def update(self, name: str, rows: pa.Table) -> None:
        """Replaces the rows that have the same keys."""
        self._note(name, rows, Op.UPDATE_AFTER)
        self._remove(name, rows)
        self._insert(name, rows)

    def delete(self, name: str, rows: pa.Table) -> None:
        """Removes the rows that have the same keys; of a table without a key, as many rows as these that equal them."""
        self._note(name, rows, Op.DELETE)
        self._remove(name, rows)

    def rows(self, sql: str) -> pa.Table:
        """What a query over the tables returns."""
        return self.database.sql(sql).to_arrow_table()

    def epoch(self) -> dict[str, list[ChangeBatch]]:
        """All changes since this was last asked."""
        made: dict[str, list[ChangeBatch]] = {}
        for name, changes in self._changes.items():
            schema = self.schemas[name]
            made[name] = [_batch(schema, rows, ops) for rows, ops in changes]
            changes.clear()
        return made

    def close(self) -> None:
        """Forgets everything."""
        self.database.close()

    def _load(self, name: str, rows: pa.Table) -> None:
        schema = self.schemas[name]
        nothing = pa.table({field.name: pa.nulls(1, field.type) for field in schema.arrow()}, schema.arrow())
        self._changes[name].clear()
        self._note(name, nothing, Op.TRUNCATE)
        self._note(name, rows, Op.READ)

    def _note(self, name: str, rows: pa.Table, op: Op) -> None:
        if rows.num_rows:
            fitting = rows.cast(self.schemas[name].arrow()).combine_chunks()
            self._changes[name].append((fitting, np.full(rows.num_rows, op, np.int8)))

    def _insert(self, name: str, rows: pa.Table) -> None:
        self.database.register("_rows", rows)
        self.database.execute(f"INSERT INTO {name} SELECT * FROM _rows")

    def _remove(self, name: str, rows: pa.Table) -> None:
        schema = self.schemas[name]
        self.database.register("_rows", rows)
        if schema.key:
            same = " AND ".join(f"{name}.{column} = _rows.{column}" for column in schema.key)
            self.database.execute(f"DELETE FROM {name} USING _rows WHERE {same}")
            return
        self.database.execute(
            f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM {name} EXCEPT ALL SELECT * FROM _rows",
        )


class Kept:
    """Steps that are kept up to date over some tables.

    Args:
        folder: Of the state.
        tables: That they read.
        steps: SQL by name.
        limits: Of the pipeline.
        state: Of its state.
    """

    def __init__(
        self,
        folder: Path,
        tables: Tables,
        steps: Mapping[str, str],
        limits: Mapping[str, float] | None = None,
        state: Limits | None = None,
    ) -> None:
        self.tables = tables
        self._state = state or Limits(state_bytes=64 << 30)
        schemas = dict(tables.schemas)
        made = []
        for name in order_steps(steps, list(schemas)):
            made.append(compile_step(name, steps[name], schemas, {}))
            schemas[name] = made[-1].schema
        instances = sorted({schema.table.instance for schema in tables.schemas.values()})
        self.plan = Plan(
            pipeline="kept",
            log="",
            instances=tuple(
                InstancePlan(
                    name=instance,
                    url="",
                    chosen=(),
                    tables=tuple(each for each in tables.schemas.values() if each.table.instance == instance),
                )
                for instance in instances
            ),
            steps=tuple(made),
            sinks=(),
            limits=limits or {},
        )
        self.steps = {step.name: step for step in made}
        self._folder = folder
        self._generation = 0
        self._cut: Cut | None = None
        self._open()
        self._held = duckdb.connect(config={"threads": 1})
        for name, step in self.steps.items():
            self._held.register("_rows", step.schema.arrow().empty_table())
            self._held.execute(f'CREATE TABLE "{name}" AS SELECT *, 0::BIGINT AS _weight FROM _rows')

    def _open(self) -> None:
        self._generation += 1
        self._views = Views(self.plan, list(self.steps))
        rowwise = [step for step in self.plan.steps if isinstance(step, StepPlan)]
        self._rowwise = [SqlStep(step) for step in rowwise if step.name not in self._views.relations]
        self.store = Store.open(
            self._folder,
            generation=self._generation,
            identity="kept",
            traces=self._views.traces,
            limits=self._state,
        )

    def _shut(self) -> None:
        self._views.close()
        for step in self._rowwise:
            step.close()
        self.store.close()

    def reopen(self) -> None:
        """Forgets all that is in memory, as a crash does, and goes on from what is on disk."""
        self._shut()
        self._open()

    def epoch(self, changes: Mapping[str, Sequence[ChangeBatch]]) -> float:
        """Carries all views over an epoch.

        Args:
            changes: By table.

        Returns:
            Seconds until the state was durable, without applying what was told.
        """
        number = 1 if self._cut is None else self._cut.number + 1
        upto = Cut(number=number, log="log", offsets={}, positions={}, at=1_700_000_000.0 + number)
        everything = frozenset(self.steps)
        needs = Needs(wanted=everything, awaited=everything if self._cut is None else frozenset())
        began = time.perf_counter()
        epoch = self._views.begin(self.store, self._cut, upto, needs)
        try:
            for name, batches in changes.items():
                for batch in batches:
                    epoch.feed(name, batch)
            told = [*self._row_by_row(changes), *epoch.finish()]
        except BaseException:
            epoch.abort()
            raise
        self.store.keep([number])
        spent = time.perf_counter() - began
        self._cut = upto
        for name, batch in told:
            self._apply(name, batch)
        return spent

    def _row_by_row(self, changes: Mapping[str, Sequence[ChangeBatch]]) -> list[tuple[str, ChangeBatch]]:
        """What the steps make that need no other rows than those that changed."""
        made = {name: list(batches) for name, batches in changes.items()}
        for step in self._rowwise:
            made[step.name] = [
                output
                for relation in self.steps[step.name].inputs
                for batch in made.get(relation, ())
                for output in step.apply(relation, batch)
            ]
        return [(step.name, batch) for step in self._rowwise for batch in made[step.name]]

    def _apply(self, name: str, batch: ChangeBatch) -> None:
        ops = batch.rows.column(OP).to_numpy()
        truncates = np.flatnonzero(ops == Op.TRUNCATE)
        begin = 0
        if truncates.size:
            self._held.execute(f'DELETE FROM "{name}"')
            begin = int(truncates[-1]) + 1
        rows = pa.table(batch.rows.slice(begin)).select(list(batch.schema.names))
        weights = pa.array(_WEIGHTS[ops[begin:]], pa.int64())
        self._held.register("_rows", rows.append_column("_weight", weights))
        self._held.execute(f'INSERT INTO "{name}" SELECT * FROM _rows')

    def contents(self, name: str) -> pa.Table:
        """All rows of a view, sorted.

        Raises:
            AssertionError: a row is there less than not at all.
        """
        columns = self.steps[name].schema.names
        names = ", ".join(f'"{column}"' for column in columns)
        self._held.execute(
            f'CREATE OR REPLACE TABLE "{name}" AS SELECT {names}, sum(_weight)::BIGINT AS _weight FROM "{name}" '
            "GROUP BY ALL HAVING sum(_weight) <> 0"
        )
        below = self._held.execute(f'SELECT count(*) FROM "{name}" WHERE _weight < 0').fetchone()
        assert below == (0,), f"{name}: a row went that never came"
        repeated = f'SELECT {names} FROM "{name}", range(_weight)'
        return in_order(self._held, repeated)

    def expected(self, name: str) -> pa.Table:
        """What DuckDB makes of the view's SQL over the tables as they are, sorted."""
        return in_order(self.tables.database, oracle_sql(self.plan, name))

    def differing(self) -> dict[str, str]:
        """Views that do not hold what their SQL returns, and in what they differ."""
        found = {}
        for name in self.steps:
            difference = difference_of(self.contents(name), self.expected(name))
            if difference:
                found[name] = difference
        return found

    def close(self) -> None:
        """Releases everything but the tables and the folder."""
        self._shut()
        self._held.close()


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What one view costs over some epochs.

    Attributes:
        load_s: Of the first epoch, with all rows there are.
        epoch_s: Median of the others.
        batch_s: DuckDB over the tables as they are in the end, in one thread: the price of asking again.
    """

    load_s: float
    epoch_s: float
    batch_s: float


def pace_of(folder: Path, tables: Tables, name: str, sql: str, epochs: Iterable[object]) -> Pace:
    """Measures one view.

    Args:
        folder: Of its state.
        tables: That stand at their beginning.
        name: Of the view.
        sql: Of it.
        epochs: Each step of the iteration changes the tables.

    Raises:
        CannotRun: the view does not hold what DuckDB says.
    """
    with closing(Kept(folder, tables, {name: sql})) as kept:
        tables.reload()
        load_s = kept.epoch(tables.epoch())
        spent = [kept.epoch(tables.epoch()) for _ in epochs]
        wrong = kept.differing()
        if wrong:
            raise CannotRun(f"{name} is wrong: {wrong[name]}")
        began = time.perf_counter()
        tables.rows(oracle_sql(kept.plan, name))
        return Pace(load_s=load_s, epoch_s=median(spent), batch_s=time.perf_counter() - began)


def difference_of(found: pa.Table, expected: pa.Table) -> str:
    """Where two sorted tables first differ, floats by more than ``RELATIVE``; empty if nowhere."""
    if found.num_rows != expected.num_rows:
        return f"{found.num_rows} rows instead of {expected.num_rows}"
    for place, name in enumerate(expected.column_names):
        mine, right = found.column(place), expected.column(place).cast(found.column(place).type)
        if pa.types.is_floating(mine.type):
            close = np.isclose(mine.to_numpy(), right.to_numpy(), rtol=RELATIVE, atol=0.0, equal_nan=True)
            if mine.null_count != right.null_count or not close.all():
                return f"column {name}"
        elif mine != right:
            return f"column {name}"
    return ""


def in_order(database: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """Rows in an order that floating point columns decide last: their last bits may differ."""
    described = database.execute(f"DESCRIBE {sql}").fetchall()
    floats = [place for place, row in enumerate(described, 1) if row[1] in ("FLOAT", "DOUBLE")]
    order = [place for place in range(1, len(described) + 1) if place not in floats] + floats
    return database.sql(f"{sql} ORDER BY {', '.join(map(str, order))}").to_arrow_table()


def _batch(schema: TableSchema, rows: pa.Table, ops: npt.NDArray[np.int8]) -> ChangeBatch:
    arrow = ChangeBatch.arrow_schema(schema)
    count = rows.num_rows
    system = {
        OP: pa.array(ops, pa.int8()),
        IMAGE: pa.array(np.full(count, Image.FULL, np.int8)),
        COMMIT: pa.array(np.zeros(count, np.int64)),
        ORDINAL: pa.array(np.arange(count, dtype=np.int64)),
        TIME: pa.nulls(count, pa.timestamp("us", "UTC")),
    }
    columns = [
        system[field.name] if field.name in system else rows.column(field.name).combine_chunks() for field in arrow
    ]
    return ChangeBatch(schema, pa.RecordBatch.from_arrays(columns, schema=arrow))
