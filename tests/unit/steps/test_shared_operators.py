"""Steps that have operators or traces alike keep them once, and each still holds what its SQL returns at every cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from raypipe_memory_state import MemoryState, MemoryWork
from test_view_epochs import TABLES, Pipeline, Sink, Source, cut, shop_plan

from raypipe.errors import InvariantBroken, SqlError
from raypipe.local.threads import Office
from raypipe.model import ChangeBatch, Cut
from raypipe.plan import Plan, compile_step
from raypipe.plan.views import Algebraic, Bilinear, ViewPlan
from raypipe.steps import Needs, Views
from raypipe.steps.views import operators
from raypipe.steps.views.relations import Relations

GROUPED = "SELECT customer, count(*) AS n, max(cents) AS most FROM shop.orders GROUP BY customer"
BODY = "substr('abc', 1 + o.customer::INT, 1)"
STEPS = {
    "grouped": GROUPED,
    "alike": "SELECT o.customer, count(*) AS n, max(o.cents) AS most FROM shop.orders AS o GROUP BY o.customer",
    "busy": f"SELECT customer, n FROM ({GROUPED}) WHERE n > 1",
    "ranked": f"SELECT customer, rank() OVER (ORDER BY n, customer) AS place FROM ({GROUPED})",
    "pairs": "SELECT a.id, b.id AS other FROM shop.orders a JOIN shop.orders b ON a.customer = b.customer",
    "noted": f"SELECT o.id, n.body FROM shop.orders o JOIN shop.notes n ON n.body = {BODY}",
    "maybe_noted": f"SELECT o.id, n.body FROM shop.orders o LEFT JOIN shop.notes n ON n.body = {BODY}",
    "words": "SELECT body, count(*) AS n FROM shop.notes GROUP BY body",
    "rare": "SELECT body FROM (SELECT body, count(*) AS n FROM shop.notes GROUP BY body) WHERE n < 3",
    "least": "SELECT customer, (SELECT count(*) FROM shop.notes) AS notes FROM grouped",
    "enriched": "SELECT o.id, g.n FROM shop.orders o JOIN grouped g ON g.customer = o.customer WHERE g.most > 1",
    "maybe_enriched": "SELECT o.id, g.n FROM shop.orders o LEFT JOIN grouped g ON g.customer = o.customer",
    "also_enriched": "SELECT o.id, g.n + 1 AS n FROM shop.orders o JOIN grouped g ON g.customer = o.customer",
    "recent": "SELECT id, cents FROM shop.orders WHERE to_timestamp(1_699_999_990 + 9 * cents) <= now()",
    "recently": "SELECT count(*) AS n FROM (SELECT id, cents FROM shop.orders"
    " WHERE to_timestamp(1_699_999_990 + 9 * cents) <= now())",
}


def planned(name: str, sql: str, views: Mapping[str, str] | None = None) -> ViewPlan:
    schemas = {str(schema.table): schema for schema in TABLES}
    plan = compile_step(name, sql, schemas, views or {})
    assert isinstance(plan, ViewPlan)
    return plan


def shared(one: ViewPlan, other: ViewPlan) -> set[str]:
    return {trace.name for trace in one.traces} & {trace.name for trace in other.traces}


def test_an_operator_is_named_by_what_it_is_made_of() -> None:
    one, other = planned("one", STEPS["grouped"]), planned("other", STEPS["alike"])
    assert shared(one, other) == {trace.name for trace in one.traces}
    busy = planned("busy", STEPS["busy"])
    assert shared(one, busy) == {trace.name for trace in one.traces}


def test_one_trace_serves_different_operators() -> None:
    noted, maybe = planned("noted", STEPS["noted"]), planned("maybe", STEPS["maybe_noted"])
    join = next(operator for operator in noted.operators if isinstance(operator, Bilinear))
    assert shared(noted, maybe) == {noted.trace_name(*each) for each in join.traces}


def test_what_an_input_holds_already_is_not_kept_again() -> None:
    chosen = ("grouped", "also_enriched")
    with closing(
        Views(replace(PLAN, steps=tuple(each for each in PLAN.steps if each.name in chosen)), chosen)
    ) as views:
        names = [trace.name.partition("/")[0] for trace in views.traces if trace.key == ("customer",)]
    # The groups by customer as an input of the join, their rows and sums, and the join's other side.
    assert sorted(names) == ["input", "operator", "operator"]
    assert sum(trace.key == ("k0",) for trace in views.traces) == 1


def test_both_sides_of_a_self_join_are_one_trace() -> None:
    assert len(planned("pairs", STEPS["pairs"]).traces) == 1


@pytest.mark.parametrize(
    "other",
    [
        GROUPED.replace("shop.orders", "shop.orders WHERE cents > 1"),
        GROUPED.replace("GROUP BY customer", "GROUP BY customer, cents").replace("max(cents)", "cents"),
    ],
)
def test_what_differs_is_kept_apart(other: str) -> None:
    assert not shared(planned("one", GROUPED), planned("other", other))


def test_groups_with_another_extreme_have_the_same_rows_and_other_sums() -> None:
    one, other = planned("one", GROUPED), planned("other", GROUPED.replace("max", "min"))
    assert len(one.traces) == 2
    assert [schema.key for schema in one.traces if schema.name in shared(one, other)] == [("customer",)]


def test_an_input_that_means_something_else_is_another() -> None:
    one = planned("one", GROUPED, {"shop.orders": "as it was"})
    assert not shared(one, planned("one", GROUPED, {"shop.orders": "as it is"}))


def test_columns_that_a_step_reads_besides_make_no_difference() -> None:
    sql = "SELECT a.id, b.id AS other FROM {} a JOIN {} b ON a.customer = b.customer"
    narrow = planned("one", sql.format("shop.orders", "shop.orders"))
    wide = planned("other", sql.format("shop.orders", "(SELECT id, customer FROM shop.orders WHERE cents > 2)"))
    assert shared(narrow, wide) == {trace.name for trace in narrow.traces}


class Sharded(Pipeline):
    """A pipeline whose state is in shards."""

    def __init__(self, source: Source, plan: Plan, wanted: Mapping[str, str], shards: int) -> None:
        super().__init__(source, plan, wanted)
        self._office = Office(shards)
        self._shards = [(Views(plan, wanted), MemoryState(self.views.traces)) for _ in range(shards)]

    def _outputs(self, after: Cut | None, sink: Sink, upto: int) -> Iterator[tuple[str, ChangeBatch]]:
        needs = Needs(wanted=self.wanted, awaited=frozenset(sink.awaiting))
        told = self.source.told[(sink.at + 1) if sink.at is not None else 0 : upto + 1]
        fed = [each for told in told for name, batches in told.items() for b in batches for each in self._flow(name, b)]

        def part(shard: int) -> list[tuple[str, ChangeBatch]]:
            views, state = self._shards[shard]
            epoch = views.begin(state, after, cut(upto + 1), needs, self._office.exchanges[shard])
            for relation, changes in fed:
                epoch.feed(relation, changes)
            return list(epoch.finish())

        self._office.begin()
        first, *others = self._office.together(part)
        assert not any(others)
        yield from first

    def _flow(self, name: str, changes: ChangeBatch) -> list[tuple[str, ChangeBatch]]:
        return list(self.flow.apply(name, changes))

    def close(self) -> None:
        self._office.close()
        for views, state in self._shards:
            views.close()
            state.close()
        super().close()


def history(pipeline: Pipeline, rng: np.random.Generator, cuts: int) -> None:
    """Two sinks, at different cuts, that stop and crash, while tables are loaded again."""
    source = pipeline.source
    sinks = [Sink(pipeline.wanted), Sink(pipeline.wanted)]
    source.cut({"shop.orders"})  # the notes are loaded later, some steps wait for them
    for _ in range(cuts):
        source.cut({name for name, chance in (("shop.orders", 0.15), ("shop.notes", 0.4)) if rng.random() < chance})
        last = len(source.told) - 1
        for sink in sorted(sinks, key=lambda each: -1 if each.at is None else each.at):
            if rng.random() < 0.3:
                continue
            at = -1 if sink.at is None else sink.at
            upto = min([last, *(each.at for each in sinks if each.at is not None and each.at > at)])
            if upto > at:
                if rng.random() < 0.3:
                    pipeline.carry(sink, upto, crash=True)
                pipeline.carry(sink, upto)
                pipeline.check(sink)


PLAN = shop_plan(STEPS)


@pytest.mark.parametrize("run", range(4))
def test_steps_that_share_hold_what_their_sql_returns(run: int, seed: int) -> None:
    rng = np.random.default_rng([seed % 2**32, run])
    with closing(Pipeline(Source(rng), PLAN, STEPS)) as pipeline:
        history(pipeline, rng, 8)


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_share_likewise(shards: int, seed: int) -> None:
    rng = np.random.default_rng([seed % 2**32, shards])
    with closing(Sharded(Source(rng), PLAN, STEPS, shards)) as pipeline:
        history(pipeline, rng, 5)


@pytest.mark.parametrize("run", range(3))
def test_steps_come_and_go_and_share_what_is_kept(run: int, seed: int) -> None:
    rng = np.random.default_rng([seed % 2**32, run])
    source = Source(rng)
    source.cut({"shop.orders", "shop.notes"})
    kept: dict[int, tuple[dict[str, pa.Table], str]] = {}
    before = Sink(())
    for _ in range(5):
        chosen = sorted(name for name in STEPS if name == "grouped" or rng.random() < 0.5)
        sink = Sink(chosen)
        sink.at = before.at
        for name in before.rows.keys() & set(chosen) - before.awaiting:
            sink.rows[name] = before.rows[name]
            sink.awaiting.discard(name)
        plan = replace(PLAN, steps=tuple(step for step in PLAN.steps if step.name in chosen))
        with closing(Pipeline(source, plan, chosen)) as pipeline:
            # As a store is opened: a trace that is not among these goes, whatever the versions say.
            names = {trace.name for trace in pipeline.views.traces}
            for version, (traces, note) in kept.items():
                pipeline.state.kept[version] = {name: traces[name] for name in names & traces.keys()}, note
            # What is read of a table may be more than before: that is loaded.
            for reload in (set(), {"shop.orders", "shop.notes"} if rng.random() < 0.5 else set(), {"shop.orders"}):
                source.cut(reload)
                pipeline.carry(sink, len(source.told) - 1)
                pipeline.check(sink)
            kept = {version: held for version, held in pipeline.state.kept.items() if version == len(source.told)}
        before = sink


def test_what_steps_have_alike_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    algebraic = operators.Operators.algebraic

    def counted(self: operators.Operators, plan: Algebraic, *rest: object, **more: object) -> object:
        ran.append(plan.out.name.partition(".")[0])
        return algebraic(self, plan, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(operators.Operators, "algebraic", counted)
    source = Source(np.random.default_rng(1))
    with closing(Pipeline(source, PLAN, ("grouped", "alike", "busy"))) as pipeline:
        sink = Sink(("grouped", "alike", "busy"))
        source.cut({"shop.orders", "shop.notes"})
        pipeline.carry(sink, 0)
        source.cut(set())
        pipeline.carry(sink, 1)
        pipeline.check(sink)
    assert ran == ["grouped", "grouped"]


def test_a_table_that_is_loaded_again_leaves_what_is_made_of_others_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Relations.add

    def watched(self: Relations, trace: str, rows: pa.Table, *, anew: bool) -> None:
        begun.append((trace, anew))
        add(self, trace, rows, anew=anew)

    begun: list[tuple[str, bool]] = []
    monkeypatch.setattr(Relations, "add", watched)
    source = Source(np.random.default_rng(1))
    with closing(Pipeline(source, PLAN, ("noted",))) as pipeline:
        sink = Sink(("noted",))
        source.cut({"shop.orders", "shop.notes"})
        pipeline.carry(sink, 0)
        begun.clear()
        source.cut({"shop.notes"})
        pipeline.carry(sink, 1)
        pipeline.check(sink)
    anew = [trace for trace, begins in begun if begins]
    assert len(anew) == 1
    assert len(begun) == 2


def _twice(patch: pytest.MonkeyPatch) -> None:
    settle = Relations.settle

    def settled(self: Relations, traces: list[str]) -> None:
        due = dict(self._due)
        settle(self, traces)
        for name in traces:
            if name in due and due[name][0].num_rows:
                self._work.trace(name).append(due[name][0])

    patch.setattr(Relations, "settle", settled)


def _at_once(patch: pytest.MonkeyPatch) -> None:
    add = Relations.add

    def added(self: Relations, trace: str, rows: pa.Table, *, anew: bool) -> None:
        add(self, trace, rows, anew=anew)
        self.settle([trace])
        self._due[trace] = rows.slice(0, 0), False

    patch.setattr(Relations, "add", added)


def _as_it_stands(patch: pytest.MonkeyPatch) -> None:
    before = Relations.before
    patch.setattr(Relations, "before", lambda self, schema, *, begins: before(self, schema, begins=False))


def _of_inputs_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryWork, "standing", MemoryWork.trace)


def _by_every_step(patch: pytest.MonkeyPatch) -> None:
    add = Relations.add

    def added(self: Relations, trace: str, rows: pa.Table, *, anew: bool) -> None:
        add(self, trace, rows, anew=True)

    patch.setattr(Relations, "add", added)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a trace is added to twice": _twice,
    "a trace is added to before all have read it": _at_once,
    "an operator that begins reads what others keep": _as_it_stands,
    "what an input holds is read after it has taken its changes": _of_inputs_too_late,
    "a trace that others go on with is begun anew": _by_every_step,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_sharing_with_a_defect_is_found_out(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[mutant](monkeypatch)
    found = False
    for number in range(12):
        rng = np.random.default_rng(number)
        try:
            with closing(Pipeline(Source(rng), PLAN, STEPS)) as pipeline:
                history(pipeline, rng, 6)
        except (AssertionError, ValueError, InvariantBroken, SqlError):
            found = True
            break
    assert found
