"""State that was carried a second time: who goes on from it is told whole what may differ in its last bits."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pyarrow as pa
from raypipe_memory_state import MemoryState
from test_view_epochs import batch, cut

from raypipe.model import IMAGE, OP, ChangeBatch, Column, Image, Op, SinkTable, TableName, TableSchema
from raypipe.plan import InstancePlan, Plan, SinkPlan, compile_step
from raypipe.steps import Needs, Views
from raypipe.steps.views.inexact import found_by_floats

READINGS = TableSchema(
    table=TableName("shop", "main", "readings"),
    columns=(
        Column(name="id", type=pa.int64()),
        Column(name="place", type=pa.int64()),
        Column(name="value", type=pa.float64()),
    ),
    key=("id",),
)
STEPS = {
    "bare": "SELECT avg(value) AS value FROM shop.readings",
    "keyed": "SELECT place, avg(value) AS value FROM shop.readings GROUP BY place",
    "by_float": "SELECT avg(value) AS value, count(*) AS n FROM shop.readings GROUP BY place HAVING count(*) > 0",
    "distinct_means": "SELECT DISTINCT value FROM keyed",
    "counted": "SELECT count(*) AS n FROM shop.readings",
    "sums": "SELECT place, sum(value) AS value, floor(sum(value))::BIGINT AS bucket FROM shop.readings GROUP BY place",
    "large": "SELECT place, count(*) AS n FROM shop.readings GROUP BY place HAVING sum(value) > 0.3",
    "buckets": "SELECT bucket, count(*) AS n FROM sums GROUP BY bucket",
    "row_wise": "SELECT place, bucket FROM sums WHERE bucket > 0",
    "latest": "SELECT place, max(value) AS most, max(id) AS id FROM shop.readings GROUP BY place HAVING most > 0",
}
# What has no key, what has one of floats, and what such a one is made of; what is there or not by a sum of floats.
WHOLE = {"bare", "by_float", "distinct_means", "keyed", "large", "buckets", "row_wise", "sums"}


def test_a_table_partitioned_by_what_a_sum_of_floats_may_have_made_is_told_whole() -> None:
    plan = readings_plan()
    sums = next(step for step in plan.steps if step.name == "sums")
    assert {"large", "buckets", "row_wise"} <= found_by_floats(plan)
    assert not found_by_floats(plan) & {"sums", "keyed", "counted", "latest"}
    for columns, whole in ((("bucket",), True), (("place",), False), ((), False)):
        table = SinkTable(name="t", relation="sums", schema=sums.schema, partition_by=columns)
        sink = SinkPlan(name="lake", url="", tables=(table,))
        assert ("sums" in found_by_floats(replace(plan, sinks=(sink,)))) == whole


def readings_plan() -> Plan:
    schemas, steps = {str(READINGS.table): READINGS}, []
    for name, sql in STEPS.items():
        steps.append(compile_step(name, sql, schemas, {}))
        schemas[name] = steps[-1].schema
    instance = InstancePlan(name="shop", url="", chosen=(), tables=(READINGS,))
    return Plan(pipeline="p", log="", instances=(instance,), steps=tuple(steps), sinks=())


class Epochs:
    """Of all steps, a reading more in each."""

    def __init__(self) -> None:
        self.views = Views(readings_plan(), tuple(STEPS))
        self.state = MemoryState(self.views.traces)

    def carry(self, after: int | None, upto: int, carried: int = 0) -> set[str]:
        """Relations that are told whole."""
        wanted = frozenset(() if carried else STEPS)
        needs = Needs(wanted=wanted, awaited=frozenset(), carried=carried)
        epoch = self.views.begin(self.state, cut(after) if after is not None else None, cut(upto), needs)
        epoch.feed("shop.readings", self._changes(upto, first=after is None))
        told = [(name, changes) for name, changes in epoch.finish()]
        return {name for name, changes in told if Op.TRUNCATE in changes.rows.column(OP).to_pylist()}

    def _changes(self, upto: int, *, first: bool) -> ChangeBatch:
        row = {"id": upto, "place": upto % 2, "value": upto / 10}
        return batch(READINGS, [*([change(Op.TRUNCATE, {})] if first else []), change(Op.INSERT, row)], upto)

    def close(self) -> None:
        self.views.close()
        self.state.close()


def change(op: Op, row: dict[str, object]) -> dict[str, object]:
    return {OP: op, IMAGE: Image.FULL, **row}


def test_it_is_told_whole_once_every_sink_is_beyond() -> None:
    with closing(Epochs()) as epochs:
        assert epochs.carry(None, 1) == set(STEPS)
        assert epochs.carry(1, 2) == set()
        # The state of cut 2 is lost with a disk; sinks hold cuts 3 and 5.
        epochs.carry(2, 3, carried=5)
        # A crash here; the first sink goes on to where the second one is.
        assert epochs.carry(3, 5) == WHOLE
        assert epochs.carry(5, 6) == WHOLE
        assert epochs.carry(6, 7) == set()
