"""One stateful step over one epoch: all of its operators in turn, then what they learned into their traces."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from raypipe.contracts import Trace, Work
from raypipe.errors import LimitExceeded, RaypipeError, SqlError
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views.model import Bilinear, Keyed, Linear, Scan, Union, ViewPlan
from raypipe.steps.diagnose import REASONS
from raypipe.steps.views.multiset import empty, weighted
from raypipe.steps.views.operators import Operators

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
        self._operators = Operators(sandbox, most_rows)

    def run(self, changes: Mapping[str, pa.Table], work: Work, *, first: bool) -> pa.Table:
        """Carries the view over an epoch.

        Args:
            changes: Weighted rows by input, with at least the columns that the view's scans name; an input without
                changes may be left out.
            work: State as it stood before the epoch; takes what is to be remembered.
            first: The state is empty, and the changes are all rows there are.

        Returns:
            Changes of the view, weighted, each different row once, no weight 0.

        Raises:
            SqlError: its SQL fails on the rows.
            LimitExceeded: it took too long, too much memory or too many rows.
        """
        try:
            return self._run(changes, work, first=first)
        except duckdb.Error as error:
            raise self._failure(error) from None
        except LimitExceeded as error:
            raise LimitExceeded(
                f"Step {self.plan.name}: {error.message}",
                remedy=error.remedy or "Simplify its SQL, or make epochs smaller.",
                step=self.plan.name,
                **error.fields,  # type: ignore[arg-type]
            ) from error

    def _run(self, changes: Mapping[str, pa.Table], work: Work, *, first: bool) -> pa.Table:
        made: dict[str, pa.Table] = {}
        added: dict[str, pa.Table] = {}
        opened: dict[str, Trace] = {}
        relations = {operator.out.name: operator.out for operator in self.plan.operators}

        def traces(relation: str, key: tuple[str, ...]) -> Trace:
            name = self.plan.trace_name(relation, key)
            if name not in opened:
                opened[name] = work.trace(name)
            return opened[name]

        def total(relation: str) -> pa.Table:
            if relation not in added:
                added[relation] = self._operators.multiset.total(relations[relation].columns, [made[relation]])
            return added[relation]

        for operator in self.plan.operators:
            columns = operator.out.columns
            if isinstance(operator, Scan):
                rows = changes.get(operator.relation)
                name = operator.out.name
                chosen = empty(columns) if rows is None else rows.select(weighted(columns).names)
                made[name] = chosen.cast(weighted(columns))
            elif isinstance(operator, Union):
                names = weighted(columns).names
                made[operator.out.name] = pa.concat_tables(
                    [made[each].rename_columns(names).cast(weighted(columns)) for each in operator.inputs]
                )
            elif isinstance(operator, Linear):
                rows = made[operator.input]
                made[operator.out.name] = self._operators.linear(operator, rows) if rows.num_rows else empty(columns)
            elif isinstance(operator, Bilinear):
                left, right = total(operator.left), total(operator.right)
                made[operator.out.name] = self._operators.bilinear(operator, left, right, traces)
            else:
                inputs = [total(each) for each in operator.inputs]
                made[operator.out.name] = self._operators.keyed(operator, inputs, traces, first=first)
                added[operator.out.name] = made[operator.out.name]
        self._remember(traces, total)
        return total(self.plan.operators[-1].out.name)

    def _remember(self, traces: object, total: object) -> None:
        remembered: dict[tuple[str, tuple[str, ...]], None] = {}
        for operator in self.plan.operators:
            if isinstance(operator, Keyed | Bilinear):
                remembered.update(dict.fromkeys(operator.traces))
        for relation, key in remembered:
            rows = total(relation)  # type: ignore[operator]
            if rows.num_rows:
                traces(relation, key).append(rows)  # type: ignore[operator]

    def _failure(self, error: duckdb.Error) -> RaypipeError:
        reason = REASONS.get(type(error), "DuckDB refused a value")
        return SqlError(
            f"Step {self.plan.name} failed on the rows of {' and '.join(self.plan.inputs)}: {reason}.",
            remedy="Let the expression cope with every value (TRY_CAST, CASE); over the whole table the SQL fails as well.",
            step=self.plan.name,
        )
