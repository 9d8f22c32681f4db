"""One stateful step over one epoch: all of its operators in turn, then what they learned into their traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from raypipe.contracts import Trace, TraceSchema, Work
from raypipe.errors import LimitExceeded, RaypipeError, SqlError
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views.model import Algebraic, Bilinear, Clock, Keyed, Linear, Scan, Union, ViewPlan
from raypipe.steps.diagnose import REASONS
from raypipe.steps.views.exchange import ALONE, Exchange
from raypipe.steps.views.multiset import fitted, scanned, weighted
from raypipe.steps.views.operators import Operators, Traces

MOST_ROWS = 5_000_000


class View:
    """A stateful step. Used by one thread.

    Args:
        plan: Of the step.
        sandbox: To run in.
        most_rows: That an operator without a key may read at once.
    """

    def __init__(self, plan: ViewPlan, sandbox: Sandbox, most_rows: int = MOST_ROWS) -> None:
        self.plan = plan
        self.name = plan.name
        self._operators = Operators(sandbox, most_rows)
        self._columns = {operator.out.name: operator.out.columns for operator in plan.operators}

    def run(
        self, changes: Mapping[str, pa.Table], work: Work, *, first: bool, at: float, exchange: Exchange = ALONE
    ) -> pa.Table:
        """Carries the view over an epoch.

        Args:
            changes: Weighted rows by input, with at least the columns that the view's scans name; an input without
                changes may be left out.
            work: State as it stood before the epoch; takes what is to be remembered.
            first: The state is empty, and the changes are all rows there are.
            at: When the cut was made that the epoch ends at, seconds since 1970: what now() means.
            exchange: With the other shards, whose changes are theirs.

        Returns:
            Changes of the view, weighted, no weight 0; each different row once unless it is the first time, when all of
            them come. All of them at the first shard.

        Raises:
            SqlError: its SQL fails on the rows.
            LimitExceeded: it took too long, too much memory or too many rows.
        """
        try:
            return self._run(changes, work, exchange, first=first, at=at)
        except duckdb.Error as error:
            raise self._failure(error) from None
        except LimitExceeded as error:
            raise LimitExceeded(
                f"Step {self.plan.name}: {error.message}",
                remedy=error.remedy or "Simplify its SQL, or make epochs smaller.",
                step=self.plan.name,
                **error.fields,  # type: ignore[arg-type]
            ) from error

    def contents(self, everything: Mapping[str, pa.Table], work: Work, exchange: Exchange = ALONE) -> pa.Table:
        """All rows of the view as the state has them, weighted, at the first shard; nothing is remembered.

        What a keyed operator made is read and not computed again, so it is what those below were told, to the last bit.

        Args:
            everything: All rows of the inputs that are this shard's.
            work: The state.
            exchange: With the other shards.
        """
        made: dict[str, pa.Table] = {}

        def here(relation: str, key: tuple[str, ...]) -> pa.Table:
            return exchange.by_key(made[relation], self._trace(relation, key))

        for operator in self.plan.operators:
            name = operator.out.name
            if isinstance(operator, Keyed):
                trace = work.trace(self.plan.trace_name(name, operator.key))
                made[name] = scanned(trace)
            elif isinstance(operator, Algebraic):
                trace = work.trace(self.plan.trace_name(operator.sums.name, operator.sums_key))
                made[name] = self._operators.whole(operator, scanned(trace))
            elif isinstance(operator, Bilinear):
                if operator.between:
                    # A row of the right is at the first shard, those of the left are anywhere.
                    left, right = made[operator.left], exchange.gather(here(operator.right, ()))[0]
                else:
                    left, right = here(operator.left, operator.left_key), here(operator.right, operator.right_key)
                made[name] = self._operators.product(operator, left, right)
            elif isinstance(operator, Clock):
                made[name] = scanned(work.trace(self.plan.trace_name(name, ())))
            else:
                made[name] = self._stateless(operator, made, everything)
        last = self.plan.operators[-1].out
        return self._operators.multiset.total(last.columns, [here(last.name, ())])

    def _run(
        self, changes: Mapping[str, pa.Table], work: Work, exchange: Exchange, *, first: bool, at: float
    ) -> pa.Table:
        made: dict[str, pa.Table] = {}
        added: dict[str, pa.Table] = {}
        arrived: dict[tuple[str, tuple[str, ...]], pa.Table] = {}
        if first:
            changes = {name: self._operators.multiset.there(rows) for name, rows in changes.items()}
        makers = {operator.out.name: operator for operator in self.plan.operators}
        columns = {name: operator.out.columns for name, operator in makers.items()}
        # The first time all rows come and nothing goes: rows of which no two are equal are added up as they are.
        apart = {name for name, operator in makers.items() if first and operator.out.unique}

        def traces(relation: str, key: tuple[str, ...]) -> Trace:
            return work.trace(self.plan.trace_name(relation, key))

        def total(relation: str) -> pa.Table:
            if relation not in added:
                operator = makers.get(relation)
                # Under other names different rows are still different.
                renamed = isinstance(operator, Linear) and set(columns[operator.input].names) <= set(operator.renames)
                if relation in apart:
                    added[relation] = made[relation]
                elif isinstance(operator, Linear) and renamed:
                    added[relation] = self._operators.linear(operator, total(operator.input))
                else:
                    added[relation] = self._operators.multiset.total(columns[relation], [made[relation]])
            return added[relation]

        def here(relation: str, key: tuple[str, ...]) -> pa.Table:
            """A relation's changes whose key is this shard's, added up."""
            if exchange.shards == 1:
                return total(relation)
            if (relation, key) not in arrived:
                rows = exchange.by_key(total(relation), self._trace(relation, key))
                arrived[relation, key] = self._operators.multiset.total(columns[relation], [rows])
            return arrived[relation, key]

        # What only comes need not be added up for an operator that looks at single rows, nor for a trace.
        loose = first and exchange.shards == 1

        def taken(relation: str, key: tuple[str, ...]) -> pa.Table:
            return made[relation] if loose and relation in made else here(relation, key)

        remembered: dict[tuple[str, tuple[str, ...]], None] = {}
        for operator in self.plan.operators:
            name = operator.out.name
            if isinstance(operator, Bilinear):
                of_left, of_right = operator.traces
                left, right, bound = here(*of_left), here(*of_right), None
                if exchange.shards > 1 and operator.between:
                    right, bound = self._bound(operator, right, traces, exchange)
                made[name] = self._operators.bilinear(operator, left, right, traces, bound)
                remembered.update(dict.fromkeys(operator.traces))
            elif isinstance(operator, Algebraic):
                rows = taken(operator.input, operator.key) if operator.extremes else made[operator.input]
                if not operator.extremes:
                    rows = exchange.by_key(rows, self._trace(operator.input, operator.key))
                begins = first and (exchange.shard == 0 or bool(operator.key))
                result, sums = self._operators.algebraic(operator, rows, traces, first=begins)
                added[name] = made[name] = result
                added[operator.sums.name] = arrived[operator.sums.name, operator.sums_key] = sums
                remembered.update(dict.fromkeys(operator.traces))
            elif isinstance(operator, Keyed):
                inputs = [taken(read.relation, read.key or ()) for read in operator.reads]
                begins = first and (exchange.shard == 0 or bool(operator.key))
                held: dict[str, pa.Table] = {}
                if exchange.shards > 1 and not operator.constant and any(read.key is None for read in operator.reads):
                    inputs, held = self._everywhere(operator, inputs, traces, exchange)
                made[name] = result = self._operators.keyed(operator, inputs, traces, held, first=begins)
                if not loose:
                    added[name] = arrived[name, operator.key] = (
                        self._operators.multiset.total(columns[name], [result]) if first else result
                    )
                remembered.update(dict.fromkeys(operator.traces))
            elif isinstance(operator, Clock):
                clock = self._operators.clock(operator, at, traces(name, ()))
                made[name] = clock if exchange.shard == 0 else clock.slice(0, 0)
                remembered.update(dict.fromkeys(operator.traces))
            else:
                made[name] = self._stateless(operator, made, changes)
        # Only now: every operator has seen its traces as they stood before the epoch.
        for relation, key in remembered:
            rows = taken(relation, key)
            if rows.num_rows:
                traces(relation, key).append(rows)
        told = here(self.plan.operators[-1].out.name, ())
        # The functions above know each other, and would keep all of this until Python looks for such circles.
        for each in (made, added, arrived):
            each.clear()
        return told

    def _everywhere(
        self, operator: Keyed, changes: Sequence[pa.Table], traces: Traces, exchange: Exchange
    ) -> tuple[list[pa.Table], dict[str, pa.Table]]:
        """What every key needs all of is at the first shard; it gives the changes, and what it held, to the others."""
        given, held = list(changes), dict[str, pa.Table]()
        if any(exchange.gather(any(rows.num_rows for rows in changes))):
            for place, read in enumerate(operator.reads):
                if read.key is None:
                    mine = None
                    if exchange.shard == 0:
                        mine = changes[place], self._operators.everything(operator, traces(read.relation, ()))
                    first = exchange.gather(mine)[0]
                    assert first is not None
                    given[place], held[read.relation] = first
        return given, held

    def _bound(
        self, operator: Bilinear, changes: pa.Table, traces: Traces, exchange: Exchange
    ) -> tuple[pa.Table, pa.Table]:
        """How the bound changes, and what it was: it is at the first shard, which tells the others."""
        mine = (changes, scanned(traces(operator.right, ()))) if exchange.shard == 0 else None
        first = exchange.gather(mine)[0]
        assert first is not None
        return first

    def _trace(self, relation: str, key: tuple[str, ...]) -> TraceSchema:
        return TraceSchema(name=self.plan.trace_name(relation, key), columns=self._columns[relation], key=key)

    def _stateless(
        self, operator: Scan | Union | Linear, made: Mapping[str, pa.Table], changes: Mapping[str, pa.Table]
    ) -> pa.Table:
        wanted = weighted(operator.out.columns)
        if isinstance(operator, Scan):
            rows = changes.get(operator.relation)
            return wanted.empty_table() if rows is None else fitted(rows.select(wanted.names), wanted)
        if isinstance(operator, Union):
            return pa.concat_tables(
                [fitted(made[each].rename_columns(wanted.names), wanted) for each in operator.inputs]
            )
        rows = made[operator.input]
        return self._operators.linear(operator, rows) if rows.num_rows else wanted.empty_table()

    def _failure(self, error: duckdb.Error) -> RaypipeError:
        reason = REASONS.get(type(error), "DuckDB refused a value")
        return SqlError(
            f"Step {self.plan.name} failed on the rows of {' and '.join(self.plan.inputs)}: {reason}.",
            remedy="Let the expression cope with every value (TRY_CAST, CASE); over the whole table it fails as well.",
            step=self.plan.name,
        )
