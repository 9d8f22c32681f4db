"""The kinds of operator at run time: changes of their inputs in, changes of their relation out.

Nothing is appended to a trace here: a trace is read as it stood before the epoch, and ``Relations`` adds the epoch's
changes to it once every operator has looked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.contracts import WEIGHT, Readable
from raypipe.errors import LimitExceeded
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.scope import quote
from raypipe.plan.views.clocks import clock_row
from raypipe.plan.views.model import Algebraic, Bilinear, Clock, Keyed, Linear, Relation, leaf_names
from raypipe.steps.views.multiset import (
    Multiset,
    counts_once,
    empty,
    expanded,
    fitted,
    given,
    negated,
    only_comes,
    scanned,
    told_by_bytes,
    weighted,
)

# So many slices of time are looked up however few rows there are; it takes a millisecond. Where a bound passes more
# slices than there are rows, all rows are looked at instead.
FEW_SLICES = 1000
# Into so many parts a fragment is divided, one after the other, until its memory suffices.
_PARTS = (4, 16, 64)
# Finds the trace of a relation by a key.
Traces = Callable[[str, tuple[str, ...]], Readable]


class Operators:
    """Runs single operators. Used by one thread.

    Args:
        sandbox: Where fragments run.
        most_rows: That an operator may read when it must read everything.
    """

    def __init__(self, sandbox: Sandbox, most_rows: int) -> None:
        self._sandbox = sandbox
        self._most_rows = most_rows
        self.multiset = Multiset(sandbox)

    def linear(self, plan: Linear, changes: pa.Table) -> pa.Table:
        """Each changed row by itself."""
        if plan.renames:
            chosen = changes.select([*plan.renames, changes.column_names[-1]])
            return chosen.rename_columns([*plan.out.columns.names, WEIGHT])
        return self._weighted(plan, [changes])

    def clock(self, plan: Clock, at: float, trace: Readable) -> pa.Table:
        """The time before goes, the time of the cut comes."""
        now = given(clock_row(at).cast(plan.out.columns), 1)
        return self.multiset.total(plan.out.columns, [now, negated(scanned(trace))])

    def bilinear(
        self, plan: Bilinear, left: pa.Table, right: pa.Table, traces: Traces, held: pa.Table | None = None
    ) -> pa.Table:
        """dA join B + (A + dA) join dB.

        Args:
            plan: Of the operator.
            left: Changes.
            right: Changes.
            traces: As they stood before the epoch.
            held: All of the right as it was, if another shard holds it.
        """
        made = []
        of_left, of_right = (traces(*each) for each in plan.traces)
        if left.num_rows:
            before = held
            if before is None:
                before = self._matching(plan.left_key, left, of_right.schema.key, of_right)
            if before.num_rows:
                made.append(self._weighted(plan, [left, before]))
        if right.num_rows:
            before = self._passed(plan, right, of_left) if plan.between else None
            if before is None:
                before = self._matching(plan.right_key, right, () if plan.between else plan.left_key, of_left)
            after = pa.concat_tables([part for part in (before, left) if part.num_rows] or [before])
            if after.num_rows:
                made.append(self._weighted(plan, [after, right]))
        return pa.concat_tables(made) if made else empty(plan.out.columns)

    def product(self, plan: Bilinear, left: pa.Table, right: pa.Table) -> pa.Table:
        """An inner join of all rows."""
        return self._weighted(plan, [left, right]) if left.num_rows and right.num_rows else empty(plan.out.columns)

    def keyed(
        self,
        plan: Keyed,
        changes: Sequence[pa.Table],
        traces: Traces,
        held: Mapping[str, pa.Table] | None = None,
        *,
        first: bool,
    ) -> pa.Table:
        """fragment(rows of the affected keys, after) - what it made for them before.

        Args:
            plan: Of the operator.
            changes: Of each input, added up unless it is the first time or nothing goes.
            traces: As they stood before the epoch.
            held: All rows of inputs whose trace lies elsewhere, by relation.
            first: It has never run: what it makes of nothing counts, too. Its traces are empty.

        Returns:
            Changes of its relation, added up unless it is the first time.
        """
        if not first and not any(rows.num_rows for rows in changes):
            return empty(plan.out.columns)
        everything = first or any(
            read.key is None and rows.num_rows for read, rows in zip(plan.reads, changes, strict=True)
        )
        keys = None
        if not everything:
            keys = self.multiset.keys(
                ((rows, read.key) for read, rows in zip(plan.reads, changes, strict=True) if read.key is not None),
                probes=len(plan.reads) + 1,
            )
        inputs = []
        for read, rows in zip(plan.reads, changes, strict=True):
            if held and read.relation in held and read.key is None:
                before = held[read.relation]
            elif keys is None or read.key is None:
                before = self.everything(plan, traces(read.relation, read.key or ()))
            else:
                before = traces(read.relation, read.key).probe(keys.rename_columns(list(read.key)))
            after = before
            if rows.num_rows:
                columns = pa.schema(list(rows.schema)[:-1])
                if before.num_rows and only_comes(rows):
                    after = pa.concat_tables([fitted(before, rows.schema), rows])
                elif before.num_rows:
                    after = self.multiset.total(columns, [before, rows])
                else:
                    after = rows
            inputs.append(expanded(after, read.relation))
        self._check_recomputed(plan, sum(rows.num_rows for rows in inputs))
        out = traces(plan.out.name, plan.key)
        made_before = self.everything(plan, out) if keys is None else out.probe(keys.rename_columns(list(plan.key)))
        leaves = dict(zip(leaf_names(plan.out.name, len(inputs)), inputs, strict=True))
        fragment = self._in_parts(plan.sql, leaves, [read.key or () for read in plan.reads])
        made = given(fitted(fragment, plan.out.columns), 1)
        return made if first else self.multiset.total(plan.out.columns, [made, negated(made_before)])

    def algebraic(
        self, plan: Algebraic, changes: pa.Table, traces: Traces, *, first: bool
    ) -> tuple[pa.Table, pa.Table]:
        """Adds changes to the groups that they touch.

        Args:
            plan: Of the operator.
            changes: Of its input; added up if it has extremes, unless it is the first time or nothing goes.
            traces: As they stood before the epoch.
            first: It has never run.

        Returns:
            Changes of its relation, added up, and of what is remembered.
        """
        if not changes.num_rows and not (first and not plan.key):
            return empty(plan.out.columns), empty(plan.sums.columns)
        if first and counts_once(changes):
            return self._begun(plan, changes)
        sums = traces(plan.sums.name, plan.sums_key)
        if first:
            before = empty(plan.sums.columns)
        elif plan.key:
            before = sums.probe(self.multiset.keys([(changes, plan.key)]))
        else:
            before = scanned(sums)
        made = self._added(plan, changes, before)
        lost = made.filter(made.column("lost"))
        if lost.num_rows:
            made = pa.concat_tables(
                [made.filter(pc.invert(made.column("lost"))), self._again(plan, changes, before, lost, traces)]
            )
        came, was = (made.column(name).to_numpy() for name in ("came", "was"))
        told = made.column("told").to_numpy()
        keys = list(plan.sums_key)
        count = len(plan.out.columns) - len(keys)
        remembered = plan.sums.columns.names[len(keys) :]
        return (
            self._difference(
                made, plan.out, came & told, was & told, [keys + [f"{each}{i}" for i in range(count)] for each in "op"]
            ),
            self._difference(
                made, plan.sums, came, was, [keys + remembered, keys + [f"b_{each}" for each in remembered]]
            ),
        )

    def whole(self, plan: Algebraic, sums: pa.Table) -> pa.Table:
        """What remembered groups are."""
        self._sandbox.register(leaf_names(plan.out.name, 3)[1], sums)
        return given(self._sandbox.query(plan.whole).cast(plan.out.columns), 1)

    def _begun(self, plan: Algebraic, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        made = self._in_parts(plan.first, {leaf_names(plan.out.name, 3)[0]: rows}, [plan.key])
        keys = list(plan.sums_key)
        results = [f"o{place}" for place in range(len(plan.out.columns) - len(keys))]
        groups = made.select([*keys, *results]).rename_columns(plan.out.columns.names).cast(plan.out.columns)
        return given(groups, 1), given(made.select(plan.sums.columns.names).cast(plan.sums.columns), 1)

    def _added(self, plan: Algebraic, changes: pa.Table, before: pa.Table, *rest: pa.Table) -> pa.Table:
        leaves = dict(zip(leaf_names(plan.out.name, 3), (changes, before, *rest), strict=False))
        return self._sandbox.run(plan.again if rest else plan.sql, leaves)

    def _again(self, plan: Algebraic, changes: pa.Table, before: pa.Table, lost: pa.Table, traces: Traces) -> pa.Table:
        """Groups that lost an extreme, with all rows that they have now."""
        # As wide as the first time, or the statement would be planned anew.
        types, remembered_types = changes.schema, before.schema
        trace = traces(plan.input, plan.key)
        columns = trace.schema.columns
        keys = list(plan.sums_key)
        if plan.key:
            held = trace.probe(lost.select(keys).rename_columns(list(plan.key)))
            changes = fitted(self._of_groups(changes, plan.key, lost.select(keys)), types)
        else:
            held = self.everything(plan, trace)
        before = lost.filter(lost.column("was"))
        remembered = plan.sums.columns.names[len(keys) :]
        before = before.select([*keys, *(f"b_{name}" for name in remembered)]).rename_columns([*keys, *remembered])
        before = fitted(given(before, 1), remembered_types)
        rest = self.multiset.total(columns, [held, changes])
        return self._added(plan, changes, before, fitted(rest.select(types.names), types))

    def _of_groups(self, rows: pa.Table, key: Sequence[str], groups: pa.Table) -> pa.Table:
        """The rows of some groups."""
        if len(key) == 1 and told_by_bytes(rows.select(list(key)).schema):
            wanted = groups.column(0).combine_chunks().cast(rows.column(key[0]).type)
            return rows.filter(pc.is_in(rows.column(key[0]), value_set=wanted))
        names = zip(key, groups.column_names, strict=True)
        same = " AND ".join(f"c.{quote(name)} IS NOT DISTINCT FROM l.{group}" for name, group in names)
        return self._sandbox.run(
            f"SELECT c.* FROM _raypipe_changes c WHERE EXISTS (SELECT 1 FROM _raypipe_lost l WHERE {same})",
            {"_raypipe_changes": rows, "_raypipe_lost": groups},
        )

    @staticmethod
    def _difference(
        made: pa.Table, relation: Relation, came: np.ndarray, was: np.ndarray, names: Sequence[Sequence[str]]
    ) -> pa.Table:
        """Rows as they are, coming, and as they were, going."""
        columns = relation.columns
        now, then = (
            fitted(made.select(chosen).filter(pa.array(there)).rename_columns(columns.names), columns)
            for there, chosen in zip((came, was), names, strict=True)
        )
        return pa.concat_tables([negated(given(then, 1)), given(now, 1)])

    def _passed(self, plan: Bilinear, bounds: pa.Table, trace: Readable) -> pa.Table | None:
        """Rows of the slices between a bound before and after; None if they are to be sought among all rows."""
        slices = bounds.column(plan.right_key[0])
        if bounds.num_rows < 2 or slices.null_count:
            return None
        first, last = pc.min(slices).as_py(), pc.max(slices).as_py()
        if last - first >= max(FEW_SLICES, trace.count):
            return None
        found = trace.probe(pa.table({plan.left_key[0]: pa.array(np.arange(first, last + 1), pa.int64())}))
        return found.cast(weighted(trace.schema.columns))

    def _matching(self, key: tuple[str, ...], rows: pa.Table, other_key: tuple[str, ...], trace: Readable) -> pa.Table:
        """Rows of the other side, as they were, that the changed rows may meet."""
        if not trace.count:
            return empty(trace.schema.columns)
        if not other_key:
            return scanned(trace)
        found = trace.probe(self.multiset.keys([(rows, key)]).rename_columns(list(other_key)))
        return fitted(found, weighted(trace.schema.columns))

    def everything(self, plan: Keyed | Algebraic, trace: Readable) -> pa.Table:
        """All rows of a trace.

        Raises:
            LimitExceeded: they are more than an operator may read at once.
        """
        if trace.count > self._most_rows:
            what = plan.what if isinstance(plan, Keyed) else "group"
            raise LimitExceeded(
                f"The {what} of relation {plan.out.name} must be computed from all of its {trace.count:,} rows, "
                f"and {self._most_rows:,} are allowed.",
                remedy="Write the step so that it has a key (GROUP BY, PARTITION BY, an equality in the join), or "
                "raise limits.step_rows.",
                rows=trace.count,
            )
        return scanned(trace)

    @staticmethod
    def _check_recomputed(plan: Keyed, rows: int) -> None:
        if plan.most_rows is not None and rows > plan.most_rows:
            raise LimitExceeded(
                f"Its inputs have {rows:,} rows, and it is to be computed whole only up to {plan.most_rows:,}.",
                remedy="Raise its recompute_rows; or write it without what needs that, then a change costs less, too.",
                rows=rows,
            )

    def _in_parts(self, sql: str, leaves: Mapping[str, pa.Table], keys: Sequence[Sequence[str]]) -> pa.Table:
        """Runs a fragment whose rows of one key depend on no other key: over some keys at a time if memory is short.

        Args:
            sql: Of the fragment.
            leaves: What it reads.
            keys: Columns of each leaf that hold the key.
        """
        try:
            return self._sandbox.run(sql, leaves)
        except LimitExceeded as error:
            if "bytes" not in error.fields or not all(keys):
                raise
            failed = error
        numbers = [self._numbered(rows, key) for rows, key in zip(leaves.values(), keys, strict=True)]
        for count in _PARTS:
            try:
                made = []
                for number in range(count):
                    masks = (pa.array(each % count == number) for each in numbers)
                    parts = {name: rows.filter(mask) for (name, rows), mask in zip(leaves.items(), masks, strict=True)}
                    made.append(self._sandbox.run(sql, parts))
                return pa.concat_tables(made)
            except LimitExceeded as error:
                failed = error
        raise failed

    def _numbered(self, rows: pa.Table, key: Sequence[str]) -> np.ndarray:
        """For each row a number, the same for equal keys."""
        self._sandbox.register("_raypipe_keys", rows.select(list(key)))
        names = ", ".join(quote(name) for name in key)
        sql = f"SELECT CAST(hash({names}) % {_PARTS[-1]} AS UTINYINT) AS number FROM _raypipe_keys"
        numbers: np.ndarray = self._sandbox.query(sql).column("number").to_numpy()
        return numbers

    def _weighted(self, plan: Linear | Bilinear, inputs: Sequence[pa.Table]) -> pa.Table:
        leaves = dict(zip(leaf_names(plan.out.name, len(inputs)), inputs, strict=True))
        return fitted(self._sandbox.run(plan.sql, leaves), weighted(plan.out.columns))
