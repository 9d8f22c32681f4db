"""Stateful steps in a run: where their state lies, for which cuts it is kept, and what they make of an epoch."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from raypipe import faults
from raypipe.errors import InvariantBroken, OutcomeUnknown, Unavailable
from raypipe.local.entered import enter, entered
from raypipe.local.inline import Executor
from raypipe.model import ChangeBatch, Committed, Cut, SinkTable
from raypipe.plan.model import Plan
from raypipe.state import Limits, Store
from raypipe.steps import Needs, Views, stateful_relations


class Stateful:
    """The stateful steps of a run and their state. Used by one thread.

    Args:
        plan: What runs.
        wanted: Relations that sinks are fed from.
        identity: Of the log: state of another log means nothing.
    """

    def __init__(self, plan: Plan, wanted: Collection[str], identity: str) -> None:
        self._plan = plan
        self._identity = identity
        self._below = stateful_relations(plan)
        self._views = Views(plan, wanted)
        self._store: Store | None = None

    @property
    def needed(self) -> bool:
        """Whether a sink is fed by a stateful step at all."""
        return bool(self._views.relations)

    def streamed(self, wanted: Collection[str]) -> set[str]:
        """What must be made of the log batch by batch: what sinks want, and what stateful steps read."""
        return (set(wanted) - self._below) | self._views.inputs

    def feeds(self, tables: Iterable[SinkTable]) -> frozenset[str]:
        """Relations that come from stateful steps, among those that feed some tables."""
        return frozenset(table.relation for table in tables) & self._below

    def open(self, generation: int) -> None:
        """Takes the state over, if it is not open."""
        if self._store is None and self.needed:
            folder = Path(self._plan.state)
            names = [trace.name for trace in self._views.traces]
            came = enter(folder, names)
            self._store = Store.open(
                folder / "traces",
                generation=generation,
                identity=self._identity,
                traces=self._views.traces,
                limits=Limits(state_bytes=int(self._plan.limits.get("state_bytes", Limits().state_bytes))),
            )
            if any(self._views.kept(self._store.note(version)) & came for version in self._store.versions()):
                # Another run dropped them meanwhile: what sinks hold of them cannot be gone on from.
                self._store.reset()
            entered(folder, names)

    def planned(self) -> Plan:
        """The plan, in which tables fed by stateful steps are also views of this state: without it they are stale."""
        lineage = self.store().lineage
        sinks = tuple(
            replace(sink, tables=tuple(self._of_this_state(table, lineage) for table in sink.tables))
            for sink in self._plan.sinks
        )
        return replace(self._plan, sinks=sinks)

    def _of_this_state(self, table: SinkTable, lineage: str) -> SinkTable:
        if table.relation not in self._below:
            return table
        return replace(table, view=sha256(f"{table.view} {lineage}".encode()).hexdigest()[:32])

    def fits(self, cuts: Iterable[Cut | None]) -> bool:
        """Whether some sink can go on from what is kept, or nothing is kept; if not, the state is emptied."""
        store = self.store()
        versions = store.versions()
        if not versions or any(cut is not None and cut.number in versions for cut in cuts):
            return True
        store.reset()
        return False

    def keep(self, cuts: Collection[int]) -> None:
        """No sink will go on from any other cut than these."""
        if self._store is not None:
            self._store.keep(cuts)

    def kept(self) -> tuple[int, ...]:
        """Cuts whose state is kept."""
        return self._store.versions() if self._store is not None else ()

    def executor(
        self, inner: Executor, held: Sequence[tuple[Committed, Sequence[SinkTable]]], lowest: Cut | None
    ) -> Executor:
        """An executor that adds what stateful steps make for the sinks of an epoch, if they are fed by any.

        Args:
            inner: Makes ``streamed`` relations.
            held: What each sink of the epoch holds, and its tables.
            lowest: Cut of the sink furthest behind of all that are fed by stateful steps.
        """
        relations = frozenset(table.relation for _, tables in held for table in tables)
        awaited = frozenset(
            table.relation
            for committed, tables in held
            for table in tables
            if table.relation in self._below
            and (table.name not in committed.tables or committed.tables[table.name].awaiting)
        )
        behind = min((_number(committed.cut) for committed, _ in held), default=0)
        needs = Needs(wanted=relations & self._below, awaited=awaited, lowest=behind <= _number(lowest))
        return _StatefulExecutor(inner, self._views, self, relations, needs) if needs.wanted else inner

    def drop(self) -> None:
        """Lets go of a state that failed; ``open`` takes it up again as it is then."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def close(self) -> None:
        """Ends steps and state; idempotent."""
        self._views.close()
        if self._store is not None:
            self._store.close()

    def store(self) -> Store:
        """The state."""
        if self._store is None:
            raise InvariantBroken("The state is not open.")
        return self._store


class _StatefulExecutor:
    """See ``Executor``."""

    def __init__(self, inner: Executor, views: Views, stateful: Stateful, wanted: frozenset[str], needs: Needs) -> None:
        self._inner = inner
        self._views = views
        self._stateful = stateful
        self._wanted = wanted
        self._needs = needs
        self._seconds = 0.0
        self.name = inner.name

    @property
    def rows(self) -> int:
        """See ``Executor``."""
        return self._inner.rows

    @property
    def seconds(self) -> Mapping[str, float]:
        """See ``Executor``."""
        return {**self._inner.seconds, "views": self._seconds}

    def outputs(self, after: Cut | None, upto: Cut) -> Iterator[tuple[str, ChangeBatch] | None]:
        """What the inner executor makes, then what the stateful steps make of it; then their state is durable."""
        epoch = self._views.begin(self._stateful.store(), after, upto, self._needs)
        try:
            for output in self._inner.outputs(after, upto):
                if output is None:
                    yield None
                    continue
                relation, batch = output
                if relation in self._views.inputs:
                    epoch.feed(relation, batch)
                yield output if relation in self._wanted else None
            yield None
            faults.point("epoch.views.before")
            made = epoch.finish()
            while True:
                began = time.perf_counter()
                output = next(made, None)
                self._seconds += time.perf_counter() - began
                if output is None:
                    break
                yield output
            faults.point("epoch.views.after")
        except (Unavailable, OutcomeUnknown):
            self._stateful.drop()  # maybe it was the state's disk; what it holds is read again in any case
            raise
        finally:
            epoch.abort()


def _number(cut: Cut | None) -> int:
    return cut.number if cut is not None else 0
