"""Stateful steps to measure: epochs of generated orders go through them into a state on disk, as in a pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.model import ChangeBatch, Column, Cut, Image, Op, TableName, TableSchema
from raypipe.plan import InstancePlan, Plan, StepPlan, compile_step, order_steps
from raypipe.plan.views import ViewPlan
from raypipe.state import Limits, Store
from raypipe.steps import Needs, Views

Ids = npt.NDArray[np.int64]

# What is made of the plan of a step.
Change = Callable[[StepPlan | ViewPlan], StepPlan | ViewPlan]

BATCH_ROWS = 1 << 16
STATUSES = np.array(["new", "paid", "shipped", "cancelled"])


def table(name: str, columns: Mapping[str, pa.DataType]) -> TableSchema:
    """A table of the shop whose first column is its key."""
    return TableSchema(
        table=TableName("shop", "main", name),
        columns=tuple(Column(name=column, type=type_) for column, type_ in columns.items()),
        key=(next(iter(columns)),),
    )


ORDERS = table(
    "orders",
    {"order_id": pa.int64(), "customer_id": pa.int64(), "status": pa.string(), "amount": pa.decimal128(10, 2)},
)


def orders(ids: Ids, customers: int, random: np.random.Generator) -> pa.Table:
    """Orders of those ids, whose other columns are random."""
    count = len(ids)
    cents = pa.array(random.integers(1, 1_000_000, count))
    return pa.table(
        {
            "order_id": ids,
            "customer_id": random.integers(0, customers, count),
            "status": pa.DictionaryArray.from_arrays(random.integers(0, 4, count).astype(np.int8), STATUSES).cast(
                pa.string()
            ),
            "amount": _hundredths(cents),
        },
        schema=ORDERS.arrow(),
    )


def _hundredths(cents: pa.Array) -> pa.Array:
    words = np.zeros((len(cents), 2), np.int64)
    words[:, 0] = cents.to_numpy()
    return pa.Array.from_buffers(pa.decimal128(10, 2), len(cents), [None, pa.py_buffer(words)])


def batches(schema: TableSchema, rows: pa.Table, ops: npt.NDArray[np.int8], commit: int) -> Iterator[ChangeBatch]:
    """Changes, in batches as readers make them.

    Args:
        schema: Of the table.
        rows: An image for each change; whole.
        ops: What each is.
        commit: Their transaction.
    """
    count = len(ops)
    system = [
        pa.array(ops),
        pa.array(np.full(count, Image.FULL, np.int8)),
        pa.array(np.full(count, commit, np.int64)),
        pa.array(np.arange(count, dtype=np.int64)),
        pa.nulls(count, pa.timestamp("us", "UTC")),
    ]
    columns = [*system, *(column.combine_chunks() for column in rows.columns)]
    whole = pa.RecordBatch.from_arrays(columns, schema=ChangeBatch.arrow_schema(schema))
    for begin in range(0, count, BATCH_ROWS):
        yield ChangeBatch(schema, whole.slice(begin, BATCH_ROWS))


def load(schema: TableSchema, rows: pa.Table) -> list[ChangeBatch]:
    """How a table is told whole: a TRUNCATE, then every row as read."""
    nothing = pa.table({column.name: pa.nulls(1, column.type) for column in schema.columns}, schema.arrow())
    return [
        *batches(schema, nothing, np.array([Op.TRUNCATE], np.int8), 0),
        *batches(schema, rows, np.full(rows.num_rows, Op.READ, np.int8), 0),
    ]


class Changes:
    """Random changes of a table of orders: six tenths inserts, three updates, one deletes.

    Args:
        first: Orders from 0 to this one are there.
        customers: How many.
        seed: Of everything random.
    """

    def __init__(self, first: int, customers: int, seed: int = 2) -> None:
        self._next = first
        self._customers = customers
        self._random = np.random.default_rng(seed)
        self._gone = np.zeros(0, np.int64)

    def take(self, count: int, commit: int) -> list[ChangeBatch]:
        """The next changes; an update counts once and has two images."""
        random = self._random
        inserts, deletes = max(1, count * 6 // 10), max(1, count // 10)
        updates = count - inserts - deletes
        touched = random.choice(self._next, size=min(self._next, 2 * (updates + deletes)), replace=False)
        touched = touched[~np.isin(touched, self._gone)][: updates + deletes]
        updated, deleted = touched[:updates], touched[updates:]
        self._gone = np.concatenate((self._gone, deleted))
        created = np.arange(self._next, self._next + inserts)
        self._next += inserts
        ids = np.concatenate((created, np.repeat(updated, 2), deleted))
        ops = np.concatenate(
            (
                np.full(inserts, Op.INSERT, np.int8),
                np.tile(np.array([Op.UPDATE_BEFORE, Op.UPDATE_AFTER], np.int8), len(updated)),
                np.full(len(deleted), Op.DELETE, np.int8),
            )
        )
        return list(batches(ORDERS, orders(ids, self._customers, random), ops, commit))


def as_planned(step: StepPlan | ViewPlan) -> StepPlan | ViewPlan:
    """The step, which shares what others have alike."""
    return step


def apart(step: StepPlan | ViewPlan) -> StepPlan | ViewPlan:
    """The step with operators and traces of its own, whatever others have."""
    if not isinstance(step, ViewPlan):
        return step
    return replace(step, identities={name: f"{step.name}.{name}" for name in step.identities})


class Rig:
    """Stateful steps and their state in a folder; one epoch after another.

    Args:
        folder: Of the state.
        tables: That the steps read.
        steps: SQL by name.
        changed: What is made of each step's plan.
    """

    def __init__(
        self,
        folder: Path,
        tables: Sequence[TableSchema],
        steps: Mapping[str, str],
        changed: Change = as_planned,
    ) -> None:
        schemas = {str(schema.table): schema for schema in tables}
        planned = []
        for name in order_steps(steps, list(schemas)):
            planned.append(changed(compile_step(name, steps[name], schemas, {})))
            schemas[name] = planned[-1].schema
        instance = InstancePlan(name="shop", url="", chosen=(), tables=tuple(tables))
        plan = Plan(
            pipeline="bench",
            log="",
            instances=(instance,),
            steps=tuple(planned),
            sinks=(),
            limits={"step_rows": 100_000_000, "step_memory_bytes": 8 << 30, "step_seconds": 600},
        )
        self._views = Views(plan, steps)
        self._needs = Needs(wanted=frozenset(steps), awaited=frozenset())
        self.store = Store.open(
            folder, generation=1, identity="bench", traces=self._views.traces, limits=Limits(state_bytes=64 << 30)
        )
        self.commit = 0

    def epoch(self, changes: Mapping[str, Sequence[ChangeBatch]]) -> tuple[float, int]:
        """Carries everything over changes; returns seconds until the state is durable, and row images told."""
        began = time.perf_counter()
        after = _cut(self.commit) if self.commit else None
        self.commit += 1
        epoch = self._views.begin(self.store, after, _cut(self.commit), self._needs)
        for relation, told in changes.items():
            for batch in told:
                epoch.feed(relation, batch)
        rows = sum(batch.num_rows for _, batch in epoch.finish())
        self.store.keep([self.commit])
        return time.perf_counter() - began, rows

    def close(self) -> None:
        """Ends steps and state."""
        self._views.close()
        self.store.close()


def _cut(number: int) -> Cut:
    return Cut(number=number, log="bench", offsets={}, positions={}, at=1_700_000_000.0 + number)
