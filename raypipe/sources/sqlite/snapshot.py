"""Loads tables in chunks beside the stream.

A chunk and the number of the last change are read in one transaction, so a loading table is at every boundary exactly
its rows up to the cursor: changes pass if their row lies there, and the chunk that follows brings the rows beyond.
"""

from __future__ import annotations

from raypipe.model import Op
from raypipe.sources.sqlite.connect import quoted
from raypipe.sources.sqlite.decode import LEADING
from raypipe.sources.sqlite.install import Capture
from raypipe.sources.sqlite.schema import Shape
from raypipe.sources.sqlite.spool import Spool

# Text as the bytes it is, so that any text fits into the JSON of a position.
_CURSOR = "CASE typeof({0}) WHEN 'text' THEN 'CAST(' || quote(CAST({0} AS BLOB)) || ' AS TEXT)' ELSE quote({0}) END"


def fill_truncate(spool: Spool, capture: Capture, seq: int) -> int:
    """Spools the TRUNCATE with which every load begins."""
    nulls = ", ".join(["NULL"] * (2 + len(capture.shape.fields)))
    return spool.fill(capture.number, LEADING + len(capture.shape.fields), f"SELECT {Op.TRUNCATE:d}, {seq}, {nulls}")


def fill_chunk(
    spool: Spool, capture: Capture, cursor: tuple[str, ...], seq: int, limit: int
) -> tuple[int, tuple[str, ...] | None]:
    """Spools the next rows of a table.

    Args:
        spool: Inside a read transaction.
        capture: Of the table, the one in force.
        cursor: Identity of the last row loaded, as SQL literals; empty at the start.
        seq: Number of the last change in this transaction.
        limit: Rows at most.

    Returns:
        Rows spooled, and the cursor after them; None if the table is loaded.
    """
    order = ", ".join(_table_identity(capture.shape))
    beyond = f"WHERE ({order}) > ({', '.join(cursor)})" if cursor else ""
    rows = _fill_rows(spool, capture, seq, f"{beyond} ORDER BY {order} LIMIT {limit}")
    if rows < limit:
        return rows, None
    identity = ", ".join(_CURSOR.format(column) for column in _spooled_identity(capture.shape))
    last = spool.find(capture.number, identity, "ORDER BY rowid DESC")
    return rows, tuple(str(literal) for literal in last or ())


def fill_table(spool: Spool, capture: Capture, seq: int) -> int:
    """Spools all rows of a table; returns how many."""
    return _fill_rows(spool, capture, seq, "")


def _fill_rows(spool: Spool, capture: Capture, seq: int, rest: str) -> int:
    """Spools rows as READ, in the order behind a TRUNCATE and every change that this transaction sees.

    The next change has the same ordinal but a later commit, so (commit, ordinal) stays an order.
    """
    shape = capture.shape
    return spool.fill(
        capture.number,
        LEADING + len(shape.fields),
        f"SELECT {Op.READ:d}, {seq + 1}, NULL, {quoted(shape.rowid) if shape.rowid else 'NULL'}, "
        f"{', '.join(quoted(name) for name in shape.names)} FROM main.{quoted(shape.table)} {rest}",
    )


def loaded_changes(shape: Shape, cursor: tuple[str, ...]) -> str:
    """SQL that picks the changes of rows up to the cursor; empty if there can be none."""
    if not cursor:
        return ""
    if shape.rowid:
        return f"AND rid <= {cursor[0]}"
    columns = [f"c{shape.names.index(term.column)} COLLATE {quoted(term.collation)}" for term in shape.identity]
    return f"AND ({', '.join(columns)}) <= ({', '.join(cursor)})"


def _table_identity(shape: Shape) -> list[str]:
    if shape.rowid:
        return [quoted(shape.rowid)]
    return [f"{quoted(term.column)} COLLATE {quoted(term.collation)}" for term in shape.identity]


def _spooled_identity(shape: Shape) -> list[str]:
    if shape.rowid:
        return ["s3"]
    return [f"s{LEADING + shape.names.index(term.column)}" for term in shape.identity]
