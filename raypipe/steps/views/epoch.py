"""All stateful steps of a plan, epoch by epoch: what they read is gathered, what they make comes at the epoch's end.

The cut that its sinks hold decides which state an epoch is computed from, since sinks may stand at different cuts:

* the state of that cut is kept: it is carried on to the epoch's end, and committed there before any sink commits; a
  relation whose load one of the sinks awaits is told whole;
* it is not, but that of the epoch's end is (the sink is new): everything is told, as a TRUNCATE and all rows;
* there is no state at all: it begins empty, at the lowest cut that a sink holds, and waits for the load of every table
  before it tells anything;
* neither: nothing can be told, which is right only as long as the sinks await a load.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from raypipe.contracts import StateStore, TraceSchema, Work
from raypipe.errors import StateLost
from raypipe.model import ChangeBatch, Cut
from raypipe.plan.model import Plan
from raypipe.plan.sandbox import Bounds, Sandbox
from raypipe.plan.views import Scan, ViewPlan
from raypipe.steps.sql import SqlStep
from raypipe.steps.views.exchange import ALONE, Exchange
from raypipe.steps.views.feed import Fed, Feed
from raypipe.steps.views.inexact import found_by_floats
from raypipe.steps.views.progress import Progress
from raypipe.steps.views.relations import Input, Relations
from raypipe.steps.views.sharing import held_by_inputs, last_uses, owners
from raypipe.steps.views.telling import told
from raypipe.steps.views.view import MOST_ROWS, View

Output = tuple[str, ChangeBatch]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the sinks of an epoch need of the stateful steps.

    Attributes:
        wanted: Relations that feed them and come from here.
        awaited: Those of them whose load a sink awaits: it takes nothing of one before its TRUNCATE.
        lowest: No other sink that is fed from here holds a lower cut.
        carried: The highest cut that a sink holds, if the state is carried on to where its sinks are already; else 0.
    """

    wanted: frozenset[str]
    awaited: frozenset[str]
    lowest: bool = True
    carried: int = 0


class Views:
    """Every stateful step that somebody needs, and the row-wise steps below them. Used by one thread.

    Args:
        plan: Of the pipeline.
        wanted: Relations that sinks are fed from.
    """

    def __init__(self, plan: Plan, wanted: Collection[str]) -> None:
        defaults = Bounds()
        self._sandbox = Sandbox(
            Bounds(
                memory_bytes=int(plan.limits.get("step_memory_bytes", defaults.memory_bytes)),
                statement_s=float(plan.limits.get("step_seconds", defaults.statement_s)),
            )
        )
        most_rows = int(plan.limits.get("step_rows", MOST_ROWS))
        below = stateful_relations(plan)
        needed = set(wanted)
        steps: list[View | SqlStep] = []
        self.inputs: frozenset[str] = frozenset()
        for step in reversed(plan.steps):
            if step.name in needed and step.name in below:
                needed.update(step.inputs)
                steps.insert(
                    0,
                    View(step, self._sandbox, most_rows)
                    if isinstance(step, ViewPlan)
                    else SqlStep(step, self._sandbox),
                )
        self._plans = {step.name: step for step in plan.steps}
        self._steps = steps
        self._views = [step for step in steps if isinstance(step, View)]
        self._last = last_uses(self._views)
        self._wanted = frozenset(wanted) & below
        self._inexact = self._wanted & found_by_floats(plan)
        self._feeds = dict(self._made_feeds(plan))
        self._by_inputs = held_by_inputs(self._views, self._feeds)
        self.inputs = frozenset(self._read()) - below
        self.between = frozenset(self._read()) & below

    @property
    def relations(self) -> frozenset[str]:
        """Wanted relations that come at the end of an epoch."""
        return self._wanted

    @property
    def traces(self) -> list[TraceSchema]:
        """Everything that must be remembered."""
        traces = [feed.trace for feed in self._feeds.values()]
        traces += [trace for view in self._views for trace in view.plan.traces]
        return [trace for name, trace in {each.name: each for each in traces}.items() if name not in self._by_inputs]

    @property
    def held_by_inputs(self) -> frozenset[str]:
        """Traces of operators that are not kept: what is held of an input is the same."""
        return frozenset(self._by_inputs)

    @property
    def steps(self) -> dict[str, str]:
        """By trace of an operator, the steps that have it, with commas between."""
        return {trace: names for trace, names in owners(self._views).items() if trace not in self._by_inputs}

    @property
    def held_inputs(self) -> dict[str, str]:
        """By trace of an input, the relation that it holds rows of."""
        return {feed.trace.name: feed.relation for feed in self._feeds.values()}

    def kept(self, note: str) -> frozenset[str]:
        """Names of the traces that a version's note relies on, as far as they are among ours."""
        progress = Progress.from_json(note)
        names = {name for name, loaded in progress.loaded.items() if loaded} | progress.held
        return frozenset(names & {trace.name for trace in self.traces})

    def begin(self, store: StateStore, after: Cut | None, upto: Cut, needs: Needs, exchange: Exchange = ALONE) -> Epoch:
        """Starts an epoch.

        Args:
            store: Of the state, or of one shard of it.
            after: Cut that the sinks hold.
            upto: Cut that they will hold.
            needs: What they await.
            exchange: With the other shards, which begin the same epoch.

        Raises:
            StateLost: there is no state to go on from, and the sinks need it.
        """
        held = tuple(store.versions())
        progress = Progress()
        if after is not None and after.number in held:
            progress = Progress.from_json(store.note(after.number))
        told = exchange.gather((held, progress.again))
        versions = set.intersection(*(set(each) for each, _ in told))
        if after is not None and after.number in versions:
            again = frozenset().union(*(relations for _, relations in told))
            whole = frozenset() if needs.carried else self._above(needs.awaited | again)
            if needs.carried:
                progress.again, progress.again_until = self._inexact, needs.carried
            elif upto.number > progress.again_until:
                progress.again = frozenset()
            return Epoch(self, store.begin(after.number), progress, upto, exchange, whole=whole)
        if upto.number in versions:
            work = store.begin(upto.number)
            return Epoch(self, work, Progress.from_json(store.note(upto.number)), upto, exchange, afresh=True)
        if not versions and needs.lowest:
            return Epoch(self, store.begin(None), Progress(), upto, exchange)
        if not needs.wanted - needs.awaited:
            return Epoch(self, None, Progress(), upto, exchange)
        raise StateLost(
            f"No state is kept for cut {after.number if after is not None else 0}, which a sink holds.",
            remedy="Remove the pipeline's state folder and run again: everything is loaded anew.",
        )

    def relations_of(self, work: Work, progress: Progress, at: float, exchange: Exchange) -> Relations:
        """Those of an epoch that has taken in nothing yet."""
        feeds = {feed.trace.name: feed for feed in self._feeds.values()}
        loaded = {name for name, feed in feeds.items() if feed.is_loaded(progress.loaded.get(name, frozenset()))}
        held = progress.held | {trace for trace, by in self._by_inputs.items() if by in loaded}
        return Relations(work, held, at, exchange, by_inputs=self._by_inputs)

    def settle(self, step: str, relations: Relations) -> None:
        """Once a step has run, if it could: does what waits until no further step reads a trace."""
        traces, identities = self._last[step]
        relations.settle(traces)
        relations.forget(identities)

    def close(self) -> None:
        """Ends the sandbox; idempotent."""
        self._sandbox.close()

    def _above(self, relations: Collection[str]) -> frozenset[str]:
        """Relations, and all steps here that they are made of."""
        found = set(relations)
        for step in reversed(self._steps):
            if step.name in found:
                found.update(self._plans[step.name].inputs)
        return frozenset(found)

    def _read(self) -> Iterator[str]:
        for step in self._steps:
            yield from step.plan.inputs if isinstance(step, View) else self._plans[step.name].inputs

    def _made_feeds(self, plan: Plan) -> Iterator[tuple[tuple[str, str], Feed]]:
        """One for each step and relation that it reads: what other steps read must not change what a step remembers."""
        schemas = {str(schema.table): schema for instance in plan.instances for schema in instance.tables}
        schemas |= {step.name: step.schema for step in plan.steps}
        made: dict[str, Feed] = {}
        for step in self._steps:
            if isinstance(step, View):
                needed: dict[str, set[str]] = {relation: set() for relation in step.plan.inputs}
                for operator in step.plan.operators:
                    if isinstance(operator, Scan):
                        needed[operator.relation].update(operator.out.columns.names)
                for relation, columns in needed.items():
                    feed = Feed(relation, schemas[relation], tuple(columns), self._sandbox)
                    yield (step.name, relation), made.setdefault(feed.trace.name, feed)


class Epoch:
    """One epoch of all stateful steps: ``feed`` any number of times, then ``finish``."""

    def __init__(
        self,
        views: Views,
        work: Work | None,
        progress: Progress,
        upto: Cut,
        exchange: Exchange,
        *,
        whole: frozenset[str] = frozenset(),
        afresh: bool = False,
    ) -> None:
        self._views = views
        self._whole = whole
        self._work = work
        self._progress = progress
        self._upto = upto
        self._exchange = exchange
        self._afresh = afresh
        self._batches: dict[str, list[ChangeBatch]] = {}

    def feed(self, relation: str, batch: ChangeBatch) -> None:
        """Takes changes of an input, in the order of the log; every shard takes all of them."""
        self._batches.setdefault(relation, []).append(batch)

    def finish(self) -> Iterator[Output]:
        """Yields (relation, changes) of every wanted relation, then commits the state; the first shard yields them all.

        Raises:
            RaypipeError: a step or the state failed; nothing is committed.
        """
        if self._work is None or self._afresh:
            yield from self._contents(self._work)
            self.abort()
            return
        yield from self._changes(self._work)
        self._work.commit(self._upto.number, note=self._progress.to_json())

    def abort(self) -> None:
        """Throws the epoch away; nothing after a commit."""
        if self._work is not None:
            self._work.abort()

    def _changes(self, work: Work) -> Iterator[Output]:
        views = self._views
        fed: dict[str, Fed] = {}
        live: set[str] = set()
        held: set[str] = set()
        relations = views.relations_of(work, self._progress, self._upto.at, self._exchange)
        for step in views._steps:
            if isinstance(step, SqlStep):
                made = [
                    output
                    for relation in views._plans[step.name].inputs
                    for batch in self._batches.get(relation, ())
                    for output in step.apply(relation, batch)
                ]
            else:
                made = []
                inputs = self._inputs(step, work, fed)
                if inputs is None:
                    views.settle(step.name, relations)
                else:
                    made = self._told(step, list(self._carried(step, inputs, relations)))
                    live.add(step.plan.view)
                    held |= step.traces - views._by_inputs.keys()
            self._batches[step.name] = made
            if step.name in views._wanted and self._exchange.shard == 0:
                for batch in made:
                    yield step.name, batch
        ours = {feed.trace.name for feed in views._feeds.values()}
        self._progress.loaded = {name: loaded for name, loaded in self._progress.loaded.items() if name in ours}
        self._progress.live, self._progress.held = live, held

    def _inputs(self, step: View, work: Work, fed: dict[str, Fed]) -> dict[str, Input] | None:
        """What happened to what a view reads; None until all of it is loaded: then it tells nothing."""
        made: dict[str, Input] = {}
        loaded = True
        for relation in step.plan.inputs:
            feed = self._views._feeds[step.name, relation]
            name = feed.trace.name
            if name not in fed:
                fed[name] = self._feed(feed, work)
            loaded = loaded and feed.is_loaded(fed[name].loaded)
            made[relation] = Input(
                changes=fed[name].changes,
                emptied=fed[name].emptied,
                everything=partial(_contents_of, feed, work, fed[name]),
            )
        return made if loaded else None

    def _carried(self, step: View, inputs: Mapping[str, Input], relations: Relations) -> Iterator[ChangeBatch]:
        """Carries one view on. One that has told nothing yet tells everything, and so does one that begins anew."""
        plan = step.plan
        whole = plan.view not in self._progress.live or plan.name in self._whole
        changes, anew = step.carry(relations, inputs, whole=whole)
        self._views.settle(step.name, relations)
        yield from told(plan.schema, changes, self._upto, self._views._sandbox, anew=anew)

    def _told(self, step: View, batches: list[ChangeBatch]) -> list[ChangeBatch]:
        """What a view tells: the first shard, and every shard if steps below read it."""
        return self._exchange.gather(batches)[0] if step.name in self._views.between else batches

    def _feed(self, feed: Feed, work: Work) -> Fed:
        trace = feed.trace.name
        loaded = self._progress.loaded.get(trace, frozenset())
        made = feed.apply(self._batches.get(feed.relation, ()), work.trace(trace), loaded, self._exchange)
        self._progress.loaded[trace] = made.loaded
        return made

    def _contents(self, work: Work | None) -> Iterator[Output]:
        """All rows of the views that are loaded, as they stand at the end of the epoch; nothing without state."""
        views = self._views
        made = dict(self._batches)
        relations = None
        if work is not None:
            relations = views.relations_of(work, self._progress, self._upto.at, self._exchange)
        for step in views._steps:
            if isinstance(step, SqlStep):
                made[step.name] = [
                    output
                    for relation in views._plans[step.name].inputs
                    for batch in made.get(relation, ())
                    for output in step.apply(relation, batch)
                ]
            elif work is not None and relations is not None and step.plan.view in self._progress.live:
                rows, _ = step.carry(relations, self._still(step, work), whole=True)
                relations.forget(views._last[step.name][1])
                batches = list(told(step.plan.schema, rows, self._upto, views._sandbox, anew=True))
                made[step.name] = self._told(step, batches)
            if step.name in views._wanted and self._exchange.shard == 0:
                for batch in made.get(step.name, ()):
                    yield step.name, batch

    def _still(self, step: View, work: Work) -> dict[str, Input]:
        """What a view reads, in which nothing has changed."""
        feeds = {relation: self._views._feeds[step.name, relation] for relation in step.plan.inputs}
        return {
            relation: Input(
                changes=feed.nothing, emptied=False, everything=partial(feed.contents, work.trace(feed.trace.name))
            )
            for relation, feed in feeds.items()
        }


def _contents_of(feed: Feed, work: Work, fed: Fed) -> pa.Table:
    """All rows of an input at the epoch's end."""
    return fed.changes if fed.whole else feed.contents(work.trace(feed.trace.name))


def stateful_relations(plan: Plan) -> frozenset[str]:
    """Stateful steps, and everything below them."""
    found: set[str] = set()
    for step in plan.steps:
        if isinstance(step, ViewPlan) or found.intersection(step.inputs):
            found.add(step.name)
    return frozenset(found)


def stateful_inputs(plan: Plan, wanted: Collection[str]) -> frozenset[str]:
    """What the stateful steps that make some relations, and the steps below them, read of everything else."""
    below = stateful_relations(plan)
    needed, read = set(wanted), set[str]()
    for step in reversed(plan.steps):
        if step.name in needed and step.name in below:
            needed.update(step.inputs)
            read.update(step.inputs)
    return frozenset(read) - below
