"""One stateful step over one epoch: all of its operators in turn, and what they learned for their traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from raypipe.contracts import Readable, TraceSchema, Work
from raypipe.errors import LimitExceeded, RaypipeError, SqlError
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views import traces_of
from raypipe.plan.views.model import Algebraic, Bilinear, Clock, Keyed, Linear, Operator, Scan, Union, ViewPlan
from raypipe.steps.diagnose import REASONS
from raypipe.steps.views.exchange import ALONE, Exchange
from raypipe.steps.views.multiset import empty, fitted, gains_nothing, scanned, weighted
from raypipe.steps.views.operators import Operators, Traces
from raypipe.steps.views.relations import Input, Relations, Rows

MOST_ROWS = 5_000_000
Key = tuple[str, ...]


class View:
    """A stateful step. Used by one thread.

    Args:
        plan: Of the step.
        sandbox: To run in.
        most_rows: That an operator without a key may read at once.

    Attributes:
        traces: Names of those that its operators read and add to.
    """

    def __init__(self, plan: ViewPlan, sandbox: Sandbox, most_rows: int = MOST_ROWS) -> None:
        self.plan = plan
        self.name = plan.name
        self.operators = Operators(sandbox, most_rows)
        self.makers = {operator.out.name: operator for operator in plan.operators}
        self.columns = {operator.out.name: operator.out.columns for operator in plan.operators}
        self.by_relation = plan.traces_by_relation
        self.traces = frozenset(trace.name for trace in self.by_relation.values())

    def carry(self, relations: Relations, inputs: Mapping[str, Input], *, whole: bool) -> tuple[pa.Table, bool]:
        """Carries the view over an epoch.

        Args:
            relations: Of the epoch, which know what other steps have made of the same, and take what is to be
                remembered.
            inputs: By name; one without changes may be left out unless something begins.
            whole: Whether all rows are wanted instead of what changed.

        Returns:
            Changes of the view, weighted, no weight 0, each different row once, at the first shard; and whether they
            are all of its rows: because they are wanted, or because an operator began.

        Raises:
            SqlError: its SQL fails on the rows.
            LimitExceeded: it took too long, too much memory or too many rows.
        """
        with self._explained():
            return Carry(self, relations, inputs).result(whole=whole)

    def run(
        self, changes: Mapping[str, pa.Table], work: Work, *, first: bool, at: float, exchange: Exchange = ALONE
    ) -> pa.Table:
        """Carries the view alone over an epoch, into its traces as well; see ``carry``.

        Args:
            changes: Weighted rows by input, with at least the columns that the view's scans name; an input without
                changes may be left out.
            work: State as it stood before the epoch; takes what is to be remembered.
            first: The state is empty, and the changes are all rows there are.
            at: When the cut was made that the epoch ends at, seconds since 1970: what now() means.
            exchange: With the other shards, whose changes are theirs.
        """
        relations = Relations(work, () if first else self.traces, at, exchange)
        inputs = {name: _input(rows, first=first) for name, rows in changes.items()}
        made, _ = self.carry(relations, inputs, whole=first)
        relations.settle(self.traces)
        return made

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise self._failure(error) from None
        except LimitExceeded as error:
            raise LimitExceeded(
                f"Step {self.plan.name}: {error.message}",
                remedy=error.remedy or "Simplify its SQL, or make epochs smaller.",
                step=self.plan.name,
                **error.fields,  # type: ignore[arg-type]
            ) from error

    def _failure(self, error: duckdb.Error) -> RaypipeError:
        reason = REASONS.get(type(error), "DuckDB refused a value")
        return SqlError(
            f"Step {self.plan.name} failed on the rows of {' and '.join(self.plan.inputs)}: {reason}.",
            remedy="Let the expression cope with every value (TRY_CAST, CASE); over the whole table it fails as well.",
            step=self.plan.name,
        )


class Carry:
    """One view over one epoch.

    Args:
        view: Whose operators run.
        relations: Of the epoch.
        inputs: Of the view.
    """

    def __init__(self, view: View, relations: Relations, inputs: Mapping[str, Input]) -> None:
        self._plan = view.plan
        self._identities = view.plan.identities
        self._operators = view.operators
        self._makers = view.makers
        self._columns = view.columns
        self._by_relation = view.by_relation
        self._relations = relations
        self._exchange = relations.exchange
        self._inputs = inputs

    def result(self, *, whole: bool) -> tuple[pa.Table, bool]:
        """See ``View.carry``."""
        ran = [operator for operator in self._plan.operators if self._run(operator)]
        for operator in ran:
            for relation, key in traces_of(operator):
                self._remember(operator, relation, key)
        last = self._plan.operators[-1].out.name
        whole = whole or self._begins(last)
        return self._here(last, (), whole), whole

    def _begins(self, name: str) -> bool:
        return self._relations.begins(self._identities[name], lambda: self._has_to_begin(self._makers[name]))

    def _has_to_begin(self, operator: Operator) -> bool:
        if isinstance(operator, Scan):
            given = self._inputs.get(operator.relation)
            return given is not None and given.emptied
        # Every one is asked: which operators begin must be known of all of them.
        below = [self._begins(name) for name in operator.inputs]
        return any(below) or not all(
            self._by_relation[each].name in self._relations.held for each in traces_of(operator)
        )

    def _run(self, operator: Operator) -> bool:
        """Runs an operator that has traces, unless it ran for another step already; says whether it did."""
        name = operator.out.name
        begins = self._begins(name)
        if not traces_of(operator) or self._relations.known(self._identities[name], begins):
            return False

        def traces(relation: str, key: Key) -> Readable:
            return self._relations.before(self._by_relation[relation, key], begins=begins)

        if isinstance(operator, Bilinear):
            of_left, of_right = operator.traces
            left, right, bound = self._taken(*of_left, begins), self._taken(*of_right, begins), None
            if self._exchange.shards > 1 and operator.between:
                right, bound = self._bound(operator, right, traces)
            self._make(name, begins, self._operators.bilinear(operator, left, right, traces, bound))
        elif isinstance(operator, Algebraic):
            self._run_algebraic(operator, traces, begins=begins)
        elif isinstance(operator, Keyed):
            self._run_keyed(operator, traces, begins=begins)
        elif isinstance(operator, Clock):
            clock = self._operators.clock(operator, self._relations.at, traces(name, ()))
            self._make(name, begins, clock if self._exchange.shard == 0 else clock.slice(0, 0))
        return True

    def _run_algebraic(self, operator: Algebraic, traces: Traces, *, begins: bool) -> None:
        source = operator.input
        if operator.extremes:
            rows = self._taken(source, operator.key, begins)
        else:
            rows = self._exchange.by_key(self._rows(source, begins).made, self._trace(source, operator.key))
        first = begins and (self._exchange.shard == 0 or bool(operator.key))
        result, sums = self._operators.algebraic(operator, rows, traces, first=first)
        self._make(operator.out.name, begins, result).added = result
        remembered = self._make(operator.sums.name, begins, sums)
        remembered.added = remembered.arrived[operator.sums_key] = sums

    def _run_keyed(self, operator: Keyed, traces: Traces, *, begins: bool) -> None:
        inputs = [self._taken(read.relation, read.key or (), begins) for read in operator.reads]
        first = begins and (self._exchange.shard == 0 or bool(operator.key))
        held: dict[str, pa.Table] = {}
        several = self._exchange.shards > 1
        if several and not operator.constant and any(read.key is None for read in operator.reads):
            inputs, held = self._everywhere(operator, inputs, traces)
        result = self._operators.keyed(operator, inputs, traces, held, first=first)
        made = self._make(operator.out.name, begins, result)
        if several or not begins:
            columns = operator.out.columns
            made.added = self._operators.multiset.total(columns, [result]) if begins else result
            made.arrived[operator.key] = made.added

    def _make(self, name: str, everything: bool, rows: pa.Table) -> Rows:
        return self._relations.make(self._identities[name], Rows(made=rows, comes=everything))

    def _remember(self, operator: Operator, relation: str, key: Key) -> None:
        """Has what changed added to a trace, or all that there is to one that is not kept."""
        trace = self._by_relation[relation, key].name
        if self._relations.awaits(trace):
            begins = self._begins(relation if relation in self._makers else operator.out.name)
            anew = begins or trace not in self._relations.held
            self._relations.add(trace, self._taken(relation, key, anew), anew=anew)

    def _rows(self, name: str, everything: bool) -> Rows:
        """What changed of a relation, or everything."""
        identity = self._identities[name]
        everything = everything or (name in self._makers and self._begins(name))
        known = self._relations.known(identity, everything)
        if known is not None:
            return known
        operator = self._makers[name]
        if isinstance(operator, Scan):
            rows = self._scanned(operator, everything)
        elif isinstance(operator, Union):
            columns = weighted(operator.out.columns)
            parts = [self._rows(each, everything).made.rename_columns(columns.names) for each in operator.inputs]
            rows = pa.concat_tables([fitted(part, columns) for part in parts])
        elif isinstance(operator, Linear):
            rows = self._rows(operator.input, everything).made
            rows = self._operators.linear(operator, rows) if rows.num_rows else empty(operator.out.columns)
        else:
            assert everything, "what changed is known once an operator ran, and those below come later"
            rows = self._everything(operator)
        return self._make(name, everything, rows)

    def _scanned(self, operator: Scan, everything: bool) -> pa.Table:
        wanted = weighted(operator.out.columns)
        given = self._inputs.get(operator.relation)
        if given is None:
            return wanted.empty_table()
        rows = given.everything() if everything else given.changes
        rows = fitted(rows.select(wanted.names), wanted)
        return self._operators.multiset.there(rows) if everything else rows

    def _everything(self, operator: Bilinear | Keyed | Algebraic | Clock) -> pa.Table:
        """All rows of a relation that goes on. What a keyed operator made is read and not computed again.

        So it is what those below were told, to the last bit.
        """
        name = operator.out.name
        if isinstance(operator, Bilinear):
            return self._product(operator)
        if isinstance(operator, Algebraic):
            sums = self._relations.before(self._trace(operator.sums.name, operator.sums_key), begins=False)
            before = self._operators.whole(operator, scanned(sums))
        else:
            key = operator.key if isinstance(operator, Keyed) else ()
            before = scanned(self._relations.before(self._trace(name, key), begins=False))
        changes = self._rows(name, False).made
        return self._operators.multiset.total(operator.out.columns, [before, changes]) if changes.num_rows else before

    def _product(self, operator: Bilinear) -> pa.Table:
        if operator.between:
            # A row of the right is at the first shard, those of the left are anywhere.
            left = self._rows(operator.left, True).made
            right = self._exchange.gather(self._here(operator.right, (), True))[0]
        else:
            left = self._here(operator.left, operator.left_key, True)
            right = self._here(operator.right, operator.right_key, True)
        return self._operators.product(operator, left, right)

    def _total(self, name: str, everything: bool) -> pa.Table:
        """The same, added up."""
        rows = self._rows(name, everything)
        if rows.added is None:
            operator = self._makers[name]
            if rows.comes and operator.out.unique:
                # All rows come and nothing goes: rows of which no two are equal are added up as they are.
                rows.added = rows.made
            elif isinstance(operator, Linear) and set(self._columns[operator.input].names) <= set(operator.renames):
                # Under other names different rows are still different.
                rows.added = self._operators.linear(operator, self._total(operator.input, everything))
            else:
                rows.added = self._operators.multiset.total(operator.out.columns, [rows.made])
        return rows.added

    def _here(self, name: str, key: Key, everything: bool) -> pa.Table:
        """Those whose key is this shard's, added up."""
        if self._exchange.shards == 1:
            return self._total(name, everything)
        arrived = self._rows(name, everything).arrived
        if key not in arrived:
            rows = self._exchange.by_key(self._total(name, everything), self._trace(name, key))
            arrived[key] = self._operators.multiset.total(self._columns[name], [rows])
        return arrived[key]

    def _taken(self, name: str, key: Key, everything: bool) -> pa.Table:
        """For an operator, and for a trace: where that gains nothing they are not added up."""
        rows = self._rows(name, everything)
        if self._exchange.shards == 1 and (rows.comes or (rows.added is None and gains_nothing(rows.made))):
            return rows.made
        return self._here(name, key, everything)

    def _everywhere(
        self, operator: Keyed, changes: Sequence[pa.Table], traces: Traces
    ) -> tuple[list[pa.Table], dict[str, pa.Table]]:
        """What every key needs all of is at the first shard; it gives the changes, and what it held, to the others."""
        given, held = list(changes), dict[str, pa.Table]()
        if any(self._exchange.gather(any(rows.num_rows for rows in changes))):
            for place, read in enumerate(operator.reads):
                if read.key is None:
                    mine = None
                    if self._exchange.shard == 0:
                        mine = changes[place], self._operators.everything(operator, traces(read.relation, ()))
                    first = self._exchange.gather(mine)[0]
                    assert first is not None
                    given[place], held[read.relation] = first
        return given, held

    def _bound(self, operator: Bilinear, changes: pa.Table, traces: Traces) -> tuple[pa.Table, pa.Table]:
        """How the bound changes, and what it was: it is at the first shard, which tells the others."""
        mine = (changes, scanned(traces(operator.right, ()))) if self._exchange.shard == 0 else None
        first = self._exchange.gather(mine)[0]
        assert first is not None
        return first

    def _trace(self, relation: str, key: Key) -> TraceSchema:
        """What says to which shard a key belongs."""
        known = self._by_relation.get((relation, key))
        return known or TraceSchema(name=f"{relation}/{key}", columns=self._columns[relation], key=key)


def _input(rows: pa.Table, *, first: bool) -> Input:
    return Input(changes=rows, emptied=first, everything=lambda: rows)
