"""Arithmetic of weighted rows: adding up, expanding, keys.

Which values are equal is for DuckDB to say. Where that is a question of their bytes Arrow groups them, which for some
hundred rows takes a tenth of the time that DuckDB takes to plan a statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.codec import ascending, comparable, hashes, last_rows, one_batch
from raypipe.contracts import WEIGHT, WEIGHT_FIELD, Readable
from raypipe.errors import InvariantBroken
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.scope import quote

_ROW = "_raypipe_row"
# Looking so few keys up costs less than finding out which of them are there twice.
_FEW_KEYS = 4096
# So many of them tell whether most are there several times.
_LOOKED_AT = 1024
# So few are grouped before they are hashed.
_FEW_ROWS = 2048


class Multiset:
    """Does sums in a sandbox.

    Args:
        sandbox: Of the thread.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def total(self, columns: pa.Schema, parts: Iterable[pa.Table]) -> pa.Table:
        """All rows together: equal ones once, with the sum of their weights, without those that cancel out."""
        filled = [part for part in parts if part.num_rows]
        if not filled:
            return empty(columns)
        rows = pa.concat_tables([fitted(part, weighted(columns)) for part in filled])
        if rows.num_rows == 1:
            return rows
        if told_by_bytes(columns):
            return _grouped(rows, columns)
        names = ", ".join(quote(name) for name in columns.names)
        total = self._sandbox.run(
            f"SELECT {names}, CAST(sum({WEIGHT}) AS BIGINT) AS {WEIGHT} FROM _raypipe_rows GROUP BY ALL "
            f"HAVING sum({WEIGHT}) <> 0",
            {"_raypipe_rows": rows},
        )
        return total.cast(weighted(columns))

    def there(self, rows: pa.Table) -> pa.Table:
        """The same rows, added up if some go."""
        return rows if only_comes(rows) else self.total(pa.schema(list(rows.schema)[:-1]), [rows])

    def last(self, rows: pa.Table, names: Sequence[str]) -> np.ndarray:
        """Where the last row of each key is, ascending."""
        keys = rows.select(list(names))
        if told_by_bytes(keys.schema):
            found = _lasts(keys)
            if found is not None:
                return found
        numbered = keys.append_column(_ROW, pa.array(np.arange(rows.num_rows)))
        key = ", ".join(quote(name) for name in names)
        sql = f"SELECT max({_ROW}) AS {_ROW} FROM _raypipe_changes GROUP BY {key} ORDER BY {_ROW}"
        places: np.ndarray = self._sandbox.run(sql, {"_raypipe_changes": numbered}).column(_ROW).to_numpy()
        return places

    def keys(self, parts: Iterable[tuple[pa.Table, Sequence[str]]], *, probes: int = 1) -> pa.Table:
        """The keys of some rows, in columns ``k0``, ``k1`` …, to be looked up.

        Args:
            parts: Rows, and the names of the key's columns.
            probes: In how many traces: for several, many keys are there once each; one trace sorts them anyway, so for
                it only where most of them seem to be there several times.
        """
        tables = [
            rows.select(list(names)).rename_columns([f"k{place}" for place in range(len(names))])
            for rows, names in parts
            if rows.num_rows
        ]
        together = pa.concat_tables(tables)
        if together.num_rows <= _FEW_KEYS:
            return together
        if told_by_bytes(together.schema):
            if together.num_columns == 1 and pa.types.is_string(together.schema.types[0]):
                # Groups often have names, and few of them; hashing and sorting texts takes longer than this.
                return pa.table([together.column(0).unique()], together.schema)
            if probes == 1 and _mostly_differ(together):
                return together
            found = _lasts(together)
            if found is not None:
                return together.take(pa.array(found))
        found = self._sandbox.run("SELECT DISTINCT * FROM _raypipe_keys", {"_raypipe_keys": together})
        return found.cast(together.schema)


def _lasts(keys: pa.Table) -> np.ndarray | None:
    """Where the last of each key is, ascending; None if that is not for their hashes to say."""
    batch = one_batch(keys)
    (hashed,) = hashes(batch, batch.schema.names)
    found = last_rows(batch, hashed)
    if found is None:
        return None
    return np.arange(len(found)) if len(found) == keys.num_rows else np.sort(found)


def only_comes(rows: pa.Table) -> bool:
    """Whether no row goes."""
    return all((chunk.to_numpy() > 0).all() for chunk in rows.column(WEIGHT).chunks)


def gains_nothing(rows: pa.Table) -> bool:
    """Whether adding rows up seems to leave as many: they are many, nothing goes, and few are equal."""
    names = rows.column_names[:-1]
    if rows.num_rows <= _FEW_KEYS or not only_comes(rows) or not told_by_bytes(rows.select(names).schema):
        return False
    return _mostly_differ(rows.select(names))


def _mostly_differ(rows: pa.Table) -> bool:
    """Whether nine of ten among the first rows are different."""
    first = rows.slice(0, _LOOKED_AT)
    return bool(10 * first.group_by(first.column_names).aggregate([]).num_rows > 9 * first.num_rows)


def counts_once(rows: pa.Table) -> bool:
    """Whether every row has the weight 1."""
    return all((chunk.to_numpy() == 1).all() for chunk in rows.column(WEIGHT).chunks)


def ascends(rows: pa.Table, names: Sequence[str]) -> bool:
    """Whether each row's values in these columns are above those of the row before: then no two rows have the same.

    False also where NULL is among them, or Arrow's order may not be that of equality.
    """
    columns = rows.select(list(names))
    if not told_by_bytes(columns.schema):
        return False
    last: pa.RecordBatch | None = None
    for batch in filter(len, columns.to_batches()):
        if any(column.null_count for column in batch.columns):
            return False
        if last is not None and not _all_below(last, batch.slice(0, 1)):
            return False
        if not _all_below(batch.slice(0, batch.num_rows - 1), batch.slice(1)):
            return False
        last = batch.slice(batch.num_rows - 1)
    return True


def _all_below(lower: pa.RecordBatch, higher: pa.RecordBatch) -> bool:
    *others, (low, high) = zip(lower.columns, higher.columns, strict=True)
    below = pc.less(low, high)
    for low, high in reversed(others):
        below = pc.or_(pc.less(low, high), pc.and_(pc.equal(low, high), below))
    return bool(pc.all(below, min_count=0).as_py())


def told_by_bytes(columns: pa.Schema) -> bool:
    """Whether values of these types are equal if and only if their bytes are: not floats, of which 0.0 is -0.0."""
    return comparable(columns) and not any(map(_differs_by_bytes, columns.types))


def _differs_by_bytes(type_: pa.DataType) -> bool:
    # Wider decimals than DuckDB knows are nothing that Arrow groups.
    return bool(pa.types.is_floating(type_) or (pa.types.is_decimal(type_) and not pa.types.is_decimal128(type_)))


def _grouped(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """Many rows are hashed first: only those that share a hash may be equal, and the others stay as they are."""
    if rows.num_rows < _FEW_ROWS:
        return _added_up(rows, columns)
    batch = one_batch(rows)
    (hashed,) = hashes(batch, columns.names)
    order = ascending(hashed)
    ordered = hashed[order]
    tied = np.flatnonzero(ordered[1:] == ordered[:-1])
    alone = np.ones(rows.num_rows, np.bool_)
    alone[order[tied]] = alone[order[tied + 1]] = False
    parts = [_present(rows if not tied.size else rows.filter(pa.array(alone)))]
    if tied.size:
        parts.append(_added_up(rows.filter(pa.array(~alone)), columns))
    return pa.concat_tables(parts)


def _added_up(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """In the order in which each row first comes."""
    made = rows.group_by(columns.names, use_threads=False).aggregate([(WEIGHT, "sum")])
    made = made.select(columns.names).append_column(WEIGHT_FIELD, made.column(f"{WEIGHT}_sum"))
    return _present(made)


def _present(rows: pa.Table) -> pa.Table:
    present = rows.column(WEIGHT).to_numpy() != 0
    return rows if present.all() else rows.filter(pa.array(present))


def fitted(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows in the types of a schema; casting takes a while for every column, even one that has its type already."""
    if rows.schema.equals(schema):
        return rows
    if rows.schema.types == schema.types and rows.schema.names == schema.names:
        return pa.Table.from_arrays(rows.columns, schema=schema)
    return rows.cast(schema)


def weighted(columns: pa.Schema) -> pa.Schema:
    """Columns and their weight."""
    return pa.schema([*columns, WEIGHT_FIELD])


def empty(columns: pa.Schema) -> pa.Table:
    """No rows."""
    return weighted(columns).empty_table()


def scanned(trace: Readable) -> pa.Table:
    """All rows of a trace."""
    columns = weighted(trace.schema.columns)
    return pa.Table.from_batches([batch.cast(columns) for batch in trace.rows()], columns)


def given(rows: pa.Table, weight: int) -> pa.Table:
    """Rows that all have one weight."""
    return rows.append_column(WEIGHT_FIELD, pa.array(np.full(rows.num_rows, weight, np.int64)))


def negated(rows: pa.Table) -> pa.Table:
    """The same rows going instead of coming."""
    weights = -rows.column(WEIGHT).to_numpy()
    return rows.set_column(rows.num_columns - 1, WEIGHT_FIELD, pa.array(weights, pa.int64()))


def expanded(rows: pa.Table, relation: str) -> pa.Table:
    """Each row as often as its weight says, without the weight.

    Raises:
        InvariantBroken: a row is there less than not at all.
    """
    bare = rows.drop_columns([WEIGHT])
    if counts_once(rows):
        return bare
    weights = rows.column(WEIGHT).to_numpy()
    if (weights < 0).any():
        raise InvariantBroken(f"Relation {relation} lost a row that it never had.", relation=relation)
    return bare.take(pa.array(np.repeat(np.arange(len(weights)), weights)))
