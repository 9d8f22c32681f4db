"""One input of stateful steps: an epoch's change batches become weighted rows, with the help of what it held before.

For a relation with a key the last image of each key decides, and the row that it replaces is looked up: so nothing
depends on what a source tells of old rows, and a row that is told twice counts once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.contracts import WEIGHT_FIELD, Trace, TraceSchema
from raypipe.errors import SchemaMismatch, SqlError
from raypipe.model import BRANCH, IMAGE, OP, ChangeBatch, Image, Op, TableSchema
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.types import plain
from raypipe.steps.views.exchange import ALONE, Exchange
from raypipe.steps.views.multiset import (
    Multiset,
    ascends,
    empty,
    fitted,
    gains_nothing,
    given,
    negated,
    scanned,
    weighted,
)

_WEIGHT_OF_OP = np.array([op.weight for op in Op], dtype=np.int64)
_COUNTS, _COMES = _WEIGHT_OF_OP != 0, _WEIGHT_OF_OP > 0


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What an epoch did to an input.

    Attributes:
        changes: Weighted rows, as the views read them.
        emptied: It was truncated, so whoever reads it begins anew.
        whole: The changes are all rows that there are.
        loaded: Branches whose load has begun.
    """

    changes: pa.Table
    emptied: bool
    whole: bool
    loaded: frozenset[int]


class Feed:
    """Of one input. Used by one thread.

    Args:
        relation: As users write it.
        schema: Of the relation when the plan was made.
        needed: Columns that some view reads.
        sandbox: To compute in.
    """

    def __init__(self, relation: str, schema: TableSchema, needed: Sequence[str], sandbox: Sandbox) -> None:
        self.relation = relation
        self._schema = schema
        self._multiset = Multiset(sandbox)
        names = [name for name in schema.names if name in needed or name in schema.key]
        arrow = schema.arrow()
        self._columns = pa.schema([pa.field(name, plain(arrow.field(name).type)) for name in names])
        branch = [pa.field(BRANCH, pa.int8())] if schema.branches > 1 else []
        self._held = pa.schema([*branch, *self._columns])
        self._identity = (*(field.name for field in branch), *schema.key) if schema.key else ()
        text = f"{self._held} {self._identity} {schema.branches}"
        shape = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.trace = TraceSchema(name=f"input/{relation}/{shape}", columns=self._held, key=self._identity)

    def apply(
        self, batches: Sequence[ChangeBatch], trace: Trace, loaded: frozenset[int], exchange: Exchange = ALONE
    ) -> Fed:
        """Takes an epoch's changes in, into the trace as well.

        Args:
            batches: In the order of the log.
            trace: What the input held before.
            loaded: Branches whose load had begun; changes of others do not count before their TRUNCATE.
            exchange: Says which rows are this shard's; the others see the same batches.

        Raises:
            SchemaMismatch: a column is gone, or its type became another.
            SqlError: an image does not hold the row.
        """
        rows = pa.concat_tables([self._selected(batch) for batch in batches]) if batches else None
        if rows is not None and exchange.shards > 1:
            everywhere = rows.column(OP).to_numpy() == Op.TRUNCATE
            rows = rows.filter(pa.array(everywhere | exchange.mine(rows.select(self._held.names), self.trace)))
        if rows is None or not rows.num_rows:
            return Fed(changes=empty(self._columns), emptied=False, whole=False, loaded=loaded)
        ops = rows.column(OP).to_numpy()
        branches = rows.column(BRANCH).to_numpy() if self._schema.branches > 1 else np.zeros(len(ops), np.int8)
        alive, emptied = np.ones(len(ops), np.bool_), set()
        for branch in range(self._schema.branches):
            mine = branches == branch
            truncates = np.flatnonzero(mine & (ops == Op.TRUNCATE))
            if truncates.size:
                emptied.add(branch)
                mine[truncates[-1] + 1 :] = False
                alive &= ~mine
            elif branch not in loaded:
                alive &= ~mine
        alive &= _COUNTS[ops]
        changes = _chosen(rows, alive)
        self._check_images(changes)
        anew = bool(emptied) and self._schema.branches == 1
        if self._schema.key and not emptied:
            delta = self._replaced(changes, trace)
        else:
            delta = self._renewed(changes, trace, emptied)
        return Fed(
            changes=delta.select(weighted(self._columns).names),
            emptied=bool(emptied),
            whole=anew,
            loaded=loaded | frozenset(emptied),
        )

    def contents(self, trace: Trace) -> pa.Table:
        """All rows that the input holds now, weighted."""
        rows = scanned(trace)
        return rows.select(weighted(self._columns).names)

    @property
    def nothing(self) -> pa.Table:
        """No changes."""
        return empty(self._columns)

    def is_loaded(self, loaded: frozenset[int]) -> bool:
        """Whether the loads of all branches have begun."""
        return len(loaded) == self._schema.branches

    def _replaced(self, changes: pa.Table, trace: Trace) -> pa.Table:
        """The last image of each key stands for what there was of it."""
        if not changes.num_rows:
            return empty(self._held)
        stays = _COMES[changes.column(OP).to_numpy()]
        return fitted(trace.replace(changes.select(self._held.names), stays), weighted(self._held))

    def _renewed(self, changes: pa.Table, trace: Trace, emptied: set[int]) -> pa.Table:
        """Likewise after branches were emptied, and for relations without a key."""
        anew = bool(emptied) and self._schema.branches == 1
        come, gone = self._by_key(changes, None if anew else trace) if self._schema.key else self._by_weight(changes)
        if emptied:
            before = self._emptied(trace, emptied)
            if anew:
                trace.clear()
            else:
                gone = pa.concat_tables([negated(before), self._outside(gone, emptied)])
        # After a TRUNCATE each key is there once, and nothing goes.
        added = (anew and bool(self._schema.key)) or (not gone.num_rows and gains_nothing(come))
        delta = fitted(come, weighted(self._held)) if added else self._multiset.total(self._held, [come, gone])
        if delta.num_rows:
            trace.append(delta)
        return delta

    def _by_key(self, changes: pa.Table, trace: Trace | None) -> tuple[pa.Table, pa.Table]:
        """Rows that are there afterwards, and rows that were there before, of all changed keys."""
        if not changes.num_rows:
            return empty(self._held), empty(self._held)
        # A table that is loaded mostly comes in the order of its key, and finding that out costs next to nothing.
        decided = changes
        if trace is not None or not ascends(changes, self._identity):
            decided = changes.take(pa.array(self._multiset.last(changes, self._identity)))
        present = _COMES[decided.column(OP).to_numpy()]
        come = given(_chosen(decided, present).select(self._held.names), 1)
        if trace is None:
            return come, empty(self._held)
        before = trace.probe(decided.select(list(self._identity)))
        return come, negated(fitted(before, weighted(self._held)))

    def _by_weight(self, changes: pa.Table) -> tuple[pa.Table, pa.Table]:
        weights = pa.array(_WEIGHT_OF_OP[changes.column(OP).to_numpy()])
        return changes.select(self._held.names).append_column(WEIGHT_FIELD, weights), empty(self._held)

    def _emptied(self, trace: Trace, branches: set[int]) -> pa.Table:
        if self._schema.branches == 1:
            return empty(self._held)
        rows = scanned(trace)
        return rows.filter(pa.array(np.isin(rows.column(BRANCH).to_numpy(), sorted(branches))))

    def _outside(self, rows: pa.Table, branches: set[int]) -> pa.Table:
        return rows.filter(pa.array(~np.isin(rows.column(BRANCH).to_numpy(), sorted(branches))))

    def _check_images(self, changes: pa.Table) -> None:
        partial = changes.column(IMAGE).to_numpy() != Image.FULL
        if self._schema.key:
            partial &= _COMES[changes.column(OP).to_numpy()]
        if partial.any():
            raise SqlError(
                f"{self.relation} told a row of which a stateful step needs all columns without some of them.",
                remedy="Let the source tell whole rows (PostgreSQL: ALTER TABLE … REPLICA IDENTITY FULL).",
                table=self.relation,
            )

    def _selected(self, batch: ChangeBatch) -> pa.Table:
        """The columns that are needed, in the types that the plan knows."""
        version = batch.schema
        for name in self._columns.names:
            if name not in version.names:
                raise SchemaMismatch(
                    f"A stateful step needs column {name} of {version.table}, which is gone since schema version "
                    f"{version.version}; there are: {', '.join(version.names)}.",
                    remedy="Change the step's SQL, or bring the column back.",
                    table=str(version.table),
                    column=name,
                    version=version.version,
                )
        if set(version.key) != set(self._schema.key):
            raise SchemaMismatch(
                f"A stateful step relies on the key ({', '.join(self._schema.key)}) of {version.table}, which is "
                f"({', '.join(version.key)}) since schema version {version.version}.",
                remedy="Restart the pipeline to plan and load the step again.",
                table=str(version.table),
                version=version.version,
            )
        arrays = [batch.rows.column(OP), batch.rows.column(IMAGE)]
        fields = [pa.field(OP, pa.int8()), pa.field(IMAGE, pa.int8())]
        for field in self._held:
            arrays.append(self._cast(batch.rows.column(field.name), field, version))
            fields.append(field)
        return pa.table(arrays, schema=pa.schema(fields))

    def _cast(self, column: pa.Array, field: pa.Field, version: TableSchema) -> pa.Array:
        have = plain(column.type)
        try:
            # "007" would become 7: text is never read as something else, and nothing else may lose anything.
            if pa.types.is_string(have) and not pa.types.is_string(field.type):
                raise pa.ArrowNotImplementedError
            return column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise SchemaMismatch(
                f"A stateful step was planned with column {field.name} of {version.table} as {field.type}; since "
                f"schema version {version.version} it is {column.type}.",
                remedy="Restart the pipeline to plan and load the step again.",
                table=str(version.table),
                column=field.name,
                version=version.version,
            ) from None


def _chosen(rows: pa.Table, flags: np.ndarray) -> pa.Table:
    """The rows whose flag is set; not copied if they lie together."""
    count = int(np.count_nonzero(flags))
    first = int(flags.argmax()) if count else 0
    return rows.slice(first, count) if flags[first : first + count].all() else rows.filter(pa.array(flags))
