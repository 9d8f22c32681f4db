"""Stateful steps from change batches to change batches: loads, keys alone, replays from older cuts, late sinks."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raypipe_memory_state import MemoryState, MemoryTrace

from raypipe.errors import InvariantBroken, StateLost
from raypipe.model import (
    COMMIT,
    IMAGE,
    OP,
    ORDINAL,
    TIME,
    ChangeBatch,
    Column,
    Cut,
    Image,
    Op,
    TableName,
    TableSchema,
)
from raypipe.plan import InstancePlan, Plan, compile_step, oracle_sql, order_steps
from raypipe.plan.views.clocks import CLOCK, clock_row
from raypipe.steps import Flow, Needs, Views

ORDERS = TableSchema(
    table=TableName("shop", "main", "orders"),
    columns=(
        Column(name="id", type=pa.int64()),
        Column(name="customer", type=pa.int64()),
        Column(name="cents", type=pa.int64()),
    ),
    key=("id",),
)
NOTES = TableSchema(table=TableName("shop", "main", "notes"), columns=(Column(name="body", type=pa.string()),), key=())
TABLES = (ORDERS, NOTES)
STEPS = {
    "doubled": "SELECT id, customer FROM shop.orders UNION ALL SELECT id, -customer FROM shop.orders WHERE cents > 2",
    "totals": "SELECT customer, count(*) AS n, sum(cents) AS cents FROM shop.orders GROUP BY customer",
    "rich": "SELECT customer, cents FROM totals WHERE cents > 3",
    "pairs": "SELECT o.id, t.n FROM shop.orders o LEFT JOIN totals t ON t.customer = o.customer",
    "spread": "SELECT customer, count(*) AS n FROM doubled GROUP BY customer",
    "words": "SELECT body, count(*) AS n FROM shop.notes GROUP BY body",
    "recent": "SELECT id, cents FROM shop.orders WHERE to_timestamp(1_699_999_990 + 9 * cents) <= now()",
    "mixed": "SELECT body, (SELECT count(*) FROM shop.orders) AS n FROM shop.notes",
}
WANTED = ("totals", "rich", "pairs", "spread", "words", "recent", "mixed")


def shop_plan(sql: Mapping[str, str] = STEPS) -> Plan:
    schemas = {str(schema.table): schema for schema in TABLES}
    steps = []
    for name in order_steps(dict(sql), list(schemas)):
        steps.append(compile_step(name, sql[name], schemas, {}))
        schemas[name] = steps[-1].schema
    instance = InstancePlan(name="shop", url="", chosen=(), tables=TABLES)
    return Plan(pipeline="p", log="", instances=(instance,), steps=tuple(steps), sinks=())


PLAN = shop_plan()


def cut(number: int) -> Cut:
    return Cut(number=number, log="log", offsets={}, positions={}, at=1_700_000_000.0 + 3 * number)


class Source:
    """Tables that tell their changes in the ways that sources do, cut by cut."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.rows: dict[str, list[dict[str, Any]]] = {"shop.orders": [], "shop.notes": []}
        self.told: list[dict[str, list[ChangeBatch]]] = []
        self.states: list[dict[str, list[dict[str, Any]]]] = []

    def cut(self, reload: set[str]) -> None:
        """Some changes, some tables loaded (again), and a cut."""
        told: dict[str, list[ChangeBatch]] = {}
        for name, schema in (("shop.orders", ORDERS), ("shop.notes", NOTES)):
            changes: list[dict[str, Any]] = []
            for _ in range(int(self._rng.integers(0, 6))):
                changes += self._order() if name == "shop.orders" else self._note()
            if name in reload:
                changes += [self._change(Op.TRUNCATE, {})]
                changes += [self._change(Op.READ, row) for row in self.rows[name]]
            split = int(self._rng.integers(0, len(changes) + 1))
            told[name] = [batch(schema, part, len(self.told)) for part in (changes[:split], changes[split:]) if part]
        self.told.append(told)
        self.states.append({name: [dict(row) for row in rows] for name, rows in self.rows.items()})

    def _order(self) -> list[dict[str, Any]]:
        rng, rows = self._rng, self.rows["shop.orders"]
        id_ = int(rng.integers(0, 8))
        customer = None if rng.random() < 0.3 else int(rng.integers(0, 3))
        new = {"id": id_, "customer": customer, "cents": int(rng.integers(0, 5))}
        old = next((row for row in rows if row["id"] == id_), None)
        image = Image.KEY if rng.random() < 0.5 else Image.FULL
        if old is None:
            rows.append(new)
            return [self._change(Op.INSERT, new)]
        rows.remove(old)
        before = {"id": id_} if image is Image.KEY else old
        if rng.random() < 0.3:
            return [self._change(Op.DELETE, before, image)]
        rows.append(new)
        return [self._change(Op.UPDATE_BEFORE, before, image), self._change(Op.UPDATE_AFTER, new)]

    def _note(self) -> list[dict[str, Any]]:
        rows = self.rows["shop.notes"]
        if rows and self._rng.random() < 0.4:
            gone = rows.pop(int(self._rng.integers(0, len(rows))))
            return [self._change(Op.DELETE, gone)]
        rows.append({"body": self._rng.choice(["a", "b", None])})
        return [self._change(Op.INSERT, rows[-1])]

    @staticmethod
    def _change(op: Op, row: dict[str, Any], image: Image = Image.FULL) -> dict[str, Any]:
        return {**row, OP: op, IMAGE: image}


def batch(schema: TableSchema, changes: list[dict[str, Any]], commit: int) -> ChangeBatch:
    arrow = ChangeBatch.arrow_schema(schema)
    rows = [{**change, COMMIT: commit, ORDINAL: place, TIME: None} for place, change in enumerate(changes)]
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in arrow]
    return ChangeBatch(schema, pa.RecordBatch.from_arrays(arrays, schema=arrow))


class Sink:
    """Tables folded from changes; awaits a TRUNCATE before it takes any."""

    def __init__(self, wanted: Collection[str] = WANTED) -> None:
        self.at: int | None = None
        self.awaiting = set(wanted)
        self.rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in wanted}

    def take(self, relation: str, changes: ChangeBatch) -> None:
        schema, rows = changes.schema, self.rows[relation]
        assert changes.rows.schema.equals(ChangeBatch.arrow_schema(schema))
        for change in changes.rows.to_pylist():
            op = Op(change[OP])
            if op is Op.TRUNCATE:
                self.awaiting.discard(relation)
                rows.clear()
            elif relation not in self.awaiting:
                row = tuple(change[name] for name in schema.names)
                if op.weight < 0:
                    rows.remove(row)
                else:
                    if schema.key:
                        key = [change[name] for name in schema.key]
                        assert key not in [
                            [dict(zip(schema.names, r, strict=True))[k] for k in schema.key] for r in rows
                        ]
                    rows.append(row)


class Pipeline:
    """Carries sinks over epochs, with state in memory."""

    def __init__(self, source: Source, plan: Plan = PLAN, wanted: Collection[str] = WANTED) -> None:
        self.source = source
        self.plan = plan
        self.wanted = frozenset(wanted)
        self.views = Views(plan, wanted)
        self.flow = Flow(plan, self.views.inputs)
        self.state = MemoryState(self.views.traces)
        self.database = duckdb.connect()
        self.database.execute("CREATE SCHEMA shop")
        self.database.execute("SET TimeZone = 'UTC'")

    def carry(self, sink: Sink, upto: int, *, crash: bool = False) -> None:
        after = cut(sink.at + 1) if sink.at is not None else None
        with closing(self._outputs(after, sink, upto)) as outputs:
            made = list(outputs)
            if crash:
                return
        for relation, changes in made:
            sink.take(relation, changes)
        sink.at = upto

    def _outputs(self, after: Cut | None, sink: Sink, upto: int) -> Iterator[tuple[str, ChangeBatch]]:
        needs = Needs(wanted=self.wanted, awaited=frozenset(sink.awaiting))
        epoch = self.views.begin(self.state, after, cut(upto + 1), needs)
        for told in self.source.told[(sink.at + 1) if sink.at is not None else 0 : upto + 1]:
            for name, batches in told.items():
                for each in batches:
                    for relation, changes in self.flow.apply(name, each):
                        epoch.feed(relation, changes)
        yield from epoch.finish()

    def check(self, sink: Sink) -> None:
        """What the sink holds is what the SQL returns over the tables as they stood at its cut."""
        assert sink.at is not None
        for schema in TABLES:
            rows = pa.Table.from_pylist(self.source.states[sink.at][str(schema.table)], schema=schema.arrow())
            self.database.register("rows", rows)
            self.database.execute(f"CREATE OR REPLACE TABLE {schema.table} AS SELECT * FROM rows")
        self.database.register(CLOCK, clock_row(cut(sink.at + 1).at))
        for relation in self.wanted:
            if relation in sink.awaiting:
                assert sink.rows[relation] == []
                continue
            found = self.database.sql(oracle_sql(self.plan, relation)).fetchall()
            assert sorted(map(repr, map(tuple, found))) == sorted(map(repr, _plain(sink.rows[relation]))), relation

    def close(self) -> None:
        self.views.close()
        self.flow.close()
        self.state.close()
        self.database.close()


def _plain(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(int(each) if hasattr(each, "as_tuple") else each for each in row) for row in rows]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_sinks_at_different_cuts_hold_the_views_of_their_cuts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = Source(rng)
    with closing(Pipeline(source)) as pipeline:
        sinks = [Sink(), Sink()]
        source.cut({"shop.orders", "shop.notes"})
        for _ in range(8):
            source.cut({name for name in ("shop.orders", "shop.notes") if rng.random() < 0.15})
            last = len(source.told) - 1
            for sink in sorted(sinks, key=lambda each: -1 if each.at is None else each.at):
                if rng.random() < 0.3:
                    continue  # it lags
                others = [
                    each.at for each in sinks if each.at is not None and each.at > (-1 if sink.at is None else sink.at)
                ]
                upto = min([last, *others])
                if sink.at is not None and upto <= sink.at:
                    continue
                if rng.random() < 0.3:
                    pipeline.carry(sink, upto, crash=True)  # the state is committed, the sink is not
                pipeline.carry(sink, upto)
                pipeline.check(sink)
            at = {each.at for each in sinks}
            if None not in at and rng.random() < 0.5:
                pipeline.state.keep({each + 1 for each in at if each is not None})
        assert not sinks[0].awaiting or sinks[0].at is None


def test_a_sink_that_comes_late_is_told_everything_at_once() -> None:
    source = Source(np.random.default_rng(3))
    with closing(Pipeline(source)) as pipeline:
        source.cut({"shop.orders", "shop.notes"})
        source.cut(set())
        first, late = Sink(), Sink()
        pipeline.carry(first, 1)
        pipeline.carry(late, 1)
        pipeline.check(late)
        assert not late.awaiting
        assert late.rows.keys() == first.rows.keys()


def test_state_that_does_not_reach_a_sink_that_holds_something_is_lost_and_says_so() -> None:
    source = Source(np.random.default_rng(3))
    with closing(Pipeline(source)) as pipeline:
        source.cut({"shop.orders", "shop.notes"})
        for _ in range(3):
            source.cut(set())
        sink = Sink()
        pipeline.carry(sink, 0)
        pipeline.carry(sink, 3)
        sink.at = 1
        with pytest.raises(StateLost, match="No state is kept for cut 2"):
            pipeline.carry(sink, 2)


def test_the_same_epoch_again_gives_the_same_bytes() -> None:
    source = Source(np.random.default_rng(5))
    with closing(Pipeline(source)) as pipeline:
        source.cut({"shop.orders", "shop.notes"})
        source.cut(set())
        sink = Sink()
        pipeline.carry(sink, 0)
        once = list(pipeline._outputs(cut(1), sink, 1))
        again = list(pipeline._outputs(cut(1), sink, 1))
        assert [(name, changes.rows) for name, changes in once] == [(name, changes.rows) for name, changes in again]


def test_an_epoch_leaves_no_rows_to_the_garbage_collector() -> None:
    # It comes round after so many new objects, however much memory those hold: an epoch has few, and large ones.
    source = Source(np.random.default_rng(7))
    with closing(Pipeline(source)) as pipeline:
        sink = Sink()
        for place in range(3):
            source.cut({"shop.orders", "shop.notes"} if not place else set())
            gc.collect()
            gc.disable()
            try:
                pipeline.carry(sink, place)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                # A variable of a function that is left, what is in it, and what is in that.
                left = gc.get_referents(*gc.garbage)
                left += gc.get_referents(*(each for each in left if isinstance(each, (dict, list, tuple))))
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert not [held for held in left if isinstance(held, (pa.Table, pa.RecordBatch, ChangeBatch))]


def test_forgetting_what_a_key_held_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = MemoryTrace.replace
    monkeypatch.setattr(
        MemoryTrace, "replace", lambda trace, rows, stays: replace(trace, rows.filter(pa.array(stays)), stays[stays])
    )
    assert any(_goes_wrong(seed) for seed in range(5))


def _goes_wrong(seed: int) -> bool:
    source = Source(np.random.default_rng(seed))
    with closing(Pipeline(source)) as pipeline:
        sink = Sink()
        source.cut({"shop.orders", "shop.notes"})
        try:
            pipeline.carry(sink, 0)
            for place in range(1, 5):
                source.cut(set())
                pipeline.carry(sink, place)
                pipeline.check(sink)
        except (AssertionError, ValueError, InvariantBroken):
            return True
    return False
