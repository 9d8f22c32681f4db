"""Compares what a sink table holds with what the oracle expects, inside the oracle's database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from raypipe.model import BRANCH, COMMIT, IMAGE, OP, ORDINAL, TIME, Mode, Op, SinkTable, TableSchema
from raypipe.verify.oracle import Oracle, quote
from raypipe.verify.report import TableReport

EXAMPLES = 5
# How far apart floating point sums over the same values may be, relative to the larger: nine digits of a DOUBLE, and
# what is left of them in narrower types.
_TOLERANCE = 1e-9
_NARROW = {32: 1e-6, 16: 1e-2}
_HELD = quote("held rows")
_PRESENT = ", ".join(str(int(op)) for op in Op if op.weight > 0)


def compare(
    oracle: Oracle,
    expected: str,
    sink: str,
    table: SinkTable,
    rows: Iterable[pa.RecordBatch],
    *,
    columns: TableSchema,
    rounded: Mapping[str, float] = MappingProxyType({}),
) -> TableReport:
    """Compares one sink table.

    Args:
        oracle: Holds the expected rows.
        expected: Table with them.
        sink: Name of the unit of commit, or of the sink whose shards share the table.
        table: To compare.
        rows: It holds at the cut, of all shards.
        columns: The relation's schema.
        rounded: Columns of floating point sums, whose last digits depend on the order of adding, with how far apart
            they may be, relative to the larger.
    """
    names = names_of(columns)
    _hold(oracle, expected, table, rows, names)
    held = _folded(columns, names) if table.mode is Mode.HISTORY else f"SELECT {_list(names)} FROM {_HELD}"
    database = oracle.database
    wanted = f"SELECT {_list(names)} FROM {expected}"
    database.execute(f"CREATE OR REPLACE TEMP TABLE lacking AS ({wanted}) EXCEPT ALL ({held})")
    database.execute(f"CREATE OR REPLACE TEMP TABLE surplus AS ({held}) EXCEPT ALL ({wanted})")
    if rounded:
        _pardon(oracle, [name for name in names if name not in rounded], rounded)
    key = key_of(columns)
    same = " AND ".join(f"l.{quote(k)} IS NOT DISTINCT FROM s.{quote(k)}" for k in key)
    both = f"SELECT l.* FROM lacking l SEMI JOIN surplus s ON {same}" if columns.key else "FROM lacking LIMIT 0"
    missing = f"SELECT l.* FROM lacking l ANTI JOIN surplus s ON {same}" if columns.key else "FROM lacking"
    extra = f"SELECT s.* FROM surplus s ANTI JOIN lacking l ON {same}" if columns.key else "FROM surplus"
    found = {"missing": missing, "extra": extra, "different": both}
    counts = {what: _count(oracle, rows) for what, rows in found.items()}
    return TableReport(
        sink=sink,
        table=table.name,
        relation=table.relation,
        rows=_count(oracle, f"FROM {expected}"),
        examples={what: _examples(oracle, rows, key) for what, rows in found.items() if counts[what]},
        **counts,
    )


def tolerance(column: pa.DataType) -> float:
    """How far apart two floating point values may be, relative to the larger."""
    return _NARROW.get(column.bit_width, _TOLERANCE)


def _pardon(oracle: Oracle, exact: list[str], rounded: Mapping[str, float]) -> None:
    """Takes out of both sides the pairs of rows that differ in nothing but the last digits of some columns."""
    by = f"PARTITION BY {_list(exact)} " if exact else ""
    numbered = f"SELECT *, row_number() OVER ({by}ORDER BY {_list(list(rounded))}) AS _raypipe_nth FROM"
    same = [f"l.{quote(name)} IS NOT DISTINCT FROM s.{quote(name)}" for name in [*exact, "_raypipe_nth"]]
    near = [
        f"(l.{c} IS NOT DISTINCT FROM s.{c} OR abs(l.{c} - s.{c}) <= {most} * greatest(abs(l.{c}), abs(s.{c})))"
        for c, most in ((quote(name), most) for name, most in rounded.items())
    ]
    on = " AND ".join([*same, *near])
    database = oracle.database
    for name in ("lacking", "surplus"):
        database.execute(f"CREATE OR REPLACE TEMP TABLE numbered_{name} AS {numbered} {name}")
    for name, other in (("lacking", "surplus"), ("surplus", "lacking")):
        sides = ("l", "s") if name == "lacking" else ("s", "l")
        database.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * EXCLUDE (_raypipe_nth) FROM numbered_{name} {sides[0]} "
            f"ANTI JOIN numbered_{other} {sides[1]} ON {on}"
        )


def with_values(oracle: Oracle, report: TableReport) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Whole rows for the examples of the table compared last."""
    names = {"missing": "lacking", "extra": "surplus", "different": "surplus"}
    return {
        what: _rows(oracle, f"FROM {names[what]} LIMIT {EXAMPLES}") if what in names else examples
        for what, examples in report.examples.items()
    }


def _hold(oracle: Oracle, expected: str, table: SinkTable, rows: Iterable[pa.RecordBatch], names: list[str]) -> None:
    """Copies the sink's rows beside the expected ones, with the expected types."""
    database = oracle.database
    system = ""
    if table.mode is Mode.HISTORY:
        system = f"0::TINYINT AS {OP}, 0::TINYINT AS {IMAGE}, 0::BIGINT AS {COMMIT}, 0::BIGINT AS {ORDINAL}, "
        system += f"NULL::TIMESTAMPTZ AS {TIME}, "
    database.execute(f"CREATE OR REPLACE TEMP TABLE {_HELD} AS SELECT {system}{_list(names)} FROM {expected} LIMIT 0")
    for batch in rows:
        database.register("incoming", pa.Table.from_batches([batch]))
        database.execute(f"INSERT INTO {_HELD} BY NAME SELECT * FROM incoming")
    if "incoming" in {row[0] for row in database.execute("SELECT view_name FROM duckdb_views()").fetchall()}:
        database.unregister("incoming")


def _folded(columns: TableSchema, names: list[str]) -> str:
    """The present state that a history tells: what follows the last TRUNCATE, folded by key or summed by weight."""
    branch = BRANCH if columns.branches > 1 else "0"
    place = f"({COMMIT}, {ORDINAL})"
    emptied = f"SELECT {branch} AS b, max({place}) AS at FROM {_HELD} WHERE {OP} = {int(Op.TRUNCATE)} GROUP BY 1"
    alive = (
        f"SELECT h.* FROM {_HELD} h LEFT JOIN ({emptied}) e ON e.b = {branch} "
        f"WHERE h.{OP} <> {int(Op.TRUNCATE)} AND (e.at IS NULL OR (h.{COMMIT}, h.{ORDINAL}) > e.at)"
    )
    if columns.key:
        return (
            f"SELECT {_list(names)} FROM (SELECT *, row_number() OVER (PARTITION BY {_list(key_of(columns))} "
            f"ORDER BY {COMMIT} DESC, {ORDINAL} DESC, {OP} DESC) AS nth FROM ({alive})) "
            f"WHERE nth = 1 AND {OP} IN ({_PRESENT})"
        )
    weight = f"sum(CASE WHEN {OP} IN ({_PRESENT}) THEN 1 ELSE -1 END)::BIGINT"
    return (
        f"SELECT {_list(names)} FROM (SELECT {_list(names)}, {weight} AS copies FROM ({alive}) GROUP BY ALL), "
        "LATERAL unnest(range(copies)) AS copy(n) WHERE copies > 0"
    )


def names_of(columns: TableSchema) -> list[str]:
    """Columns that are compared."""
    return [*([BRANCH] if columns.branches > 1 else []), *columns.names]


def key_of(columns: TableSchema) -> list[str]:
    """Columns that tell a row: all of them if the relation has no key."""
    if not columns.key:
        return names_of(columns)
    return [*([BRANCH] if columns.branches > 1 else []), *columns.key]


def _count(oracle: Oracle, rows: str) -> int:
    found = oracle.database.execute(f"SELECT count(*) FROM ({rows})").fetchone()
    return int(found[0]) if found else 0


def _examples(oracle: Oracle, rows: str, key: list[str]) -> tuple[dict[str, Any], ...]:
    return _rows(oracle, f"SELECT {_list(key)} FROM ({rows}) LIMIT {EXAMPLES}")


def _rows(oracle: Oracle, sql: str) -> tuple[dict[str, Any], ...]:
    cursor = oracle.database.execute(sql)
    names = [column[0] for column in cursor.description or ()]
    return tuple(dict(zip(names, row, strict=True)) for row in cursor.fetchall())


def _list(names: list[str]) -> str:
    return ", ".join(quote(name) for name in names)
