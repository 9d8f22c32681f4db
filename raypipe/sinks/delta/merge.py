"""The SQL of a merge: which rows of a Delta table a change meets, and which files it need not open.

A file is left unopened only if its partition or its key range is named as a *literal*; ``t.day = s.day`` prunes
nothing. A row whose partition the predicate does not name would count as absent and be inserted a second time, so
literals name every place a touched row may be in, or nothing at all (see ``reduce.Touched``).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.model import BRANCH
from raypipe.sinks.delta.reduce import GONE, Counts, Touched
from raypipe.sinks.delta.stage import Spool

TARGET = "t"
SOURCE = "s"
_ROW = "_raypipe_row"


def quoted(name: str) -> str:
    """A name as SQL has it, whatever its characters."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def target(name: str) -> str:
    """A column of the Delta table."""
    return f"{TARGET}.{quoted(name)}"


def source(name: str) -> str:
    """A column of the rows that are merged into it."""
    return f"{SOURCE}.{quoted(name)}"


def same(names: Sequence[str]) -> str:
    """Both sides are equal in these columns; NULL equals NULL."""
    # In parentheses, because the library's parser takes all that follows FROM for its operand, AND included.
    return " AND ".join(f"({target(name)} IS NOT DISTINCT FROM {source(name)})" for name in names)


def meets_identity(identity: Sequence[str], touched: Touched) -> str:
    """A stored row meets the merged row of its identity."""
    return " AND ".join(filter(None, (within(touched, target), same(identity))))


def meets_copies(names: Sequence[str], touched: Touched) -> str:
    """All copies of a row meet the merged row that says they are gone; a row to be inserted meets none."""
    return " AND ".join(filter(None, (is_gone(), within(touched, target), same(names))))


def within(touched: Touched, column: Callable[[str], str]) -> str:
    """Stored rows that may be touched; empty if all may be.

    Args:
        touched: By an epoch.
        column: Names a stored column in the statement at hand.
    """
    terms = [_among(column(name), values) for name, values in touched.values.items() if values is not None]
    if touched.key is not None and touched.low is not None and touched.high is not None:
        terms.append(f"{column(touched.key)} BETWEEN {touched.low.as_py()} AND {touched.high.as_py()}")
    return " AND ".join(filter(None, terms))


def of_branches(branches: frozenset[int]) -> str:
    """Rows of the Delta table that came from some branches."""
    return " OR ".join(f"{target(BRANCH)} = {branch}" for branch in sorted(branches))


def is_gone() -> str:
    """The merged row is to be deleted."""
    return source(GONE)


def assignments(names: Sequence[str]) -> dict[str, str]:
    """Every column takes the merged row's value."""
    return {quoted(name): source(name) for name in names}


def count_copies(held: pa.RecordBatchReader, wanted: Spool, names: Sequence[str], spill: Path) -> Counts:
    """How many copies of each wanted row are held, in the order of the wanted rows.

    Args:
        held: Rows of the Delta table, read once.
        wanted: Distinct rows.
        names: Columns that make a row.
        spill: Folder for what does not fit into memory.
    """
    equal = " AND ".join(f"h.{quoted(name)} IS NOT DISTINCT FROM w.{quoted(name)}" for name in names)
    with duckdb.connect(config={"temp_directory": str(spill)}) as con:
        # The table has no known size, so the optimizer might hash it; as written, the wanted rows are hashed.
        con.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        con.execute("SET TimeZone = 'UTC'")
        con.register("incoming", _numbered(wanted, names))
        con.execute("CREATE TEMP TABLE wanted AS FROM incoming")
        con.register("held", held)
        counted: pa.Table = con.sql(
            f"SELECT w.{_ROW} AS place, count(*) AS copies FROM held h JOIN wanted w ON {equal} GROUP BY w.{_ROW}"
        ).to_arrow_table()
    copies = np.zeros(wanted.num_rows, dtype=np.int64)
    copies[counted["place"].to_numpy()] = counted["copies"].to_numpy()
    return copies


def _numbered(rows: Spool, names: Sequence[str]) -> pa.RecordBatchReader:
    """The rows with their place among all."""

    def batches() -> Iterator[pa.RecordBatch]:
        begin = 0
        for table in rows.tables():
            places = pa.array(np.arange(begin, begin + table.num_rows))
            begin += table.num_rows
            yield from table.select(names).append_column(_ROW, places).to_batches()

    schema = next(rows.tables()).select(names).schema.append(pa.field(_ROW, pa.int64()))
    return pa.RecordBatchReader.from_batches(schema, batches())


def _among(column: str, values: pa.Array) -> str:
    """The column has one of the values; empty if they cannot be named."""
    some = pc.drop_null(values)
    literals = [_literal(value) for value in some]
    if None in literals:
        return ""
    terms = [f"{column} IN ({', '.join(filter(None, literals))})"] if literals else []
    if len(some) < len(values):
        terms.append(f"{column} IS NULL")
    return f"({' OR '.join(terms)})" if terms else ""


def _literal(value: pa.Scalar) -> str | None:
    """The value in SQL; None for types whose literals readers do not agree on."""
    if pa.types.is_integer(value.type) or pa.types.is_boolean(value.type):
        return str(value.as_py()).lower()
    if pa.types.is_string(value.type):
        text = value.as_py().replace("'", "''")
        return f"'{text}'"
    if pa.types.is_date32(value.type):
        try:
            day: datetime.date = value.as_py()
        except (OverflowError, ValueError):
            return None  # a year Python does not know
        return f"DATE '{day.isoformat()}'"
    return None
