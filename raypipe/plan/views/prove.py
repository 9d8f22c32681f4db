"""A trial when a plan is made: the operators and the user's own SQL over the same invented rows must agree.

It guards against a reading of the SQL that differs from DuckDB's. Rows are invented from a fixed seed, few different
values and the SQL's own literals, so that joins meet and conditions hold. A keyed operator is tried for what it
relies on, too: that its result over some keys and its result over the others make up its result over all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
from sqlglot import exp

from raypipe.errors import LimitExceeded
from raypipe.model import TableSchema
from raypipe.plan.sandbox import Bounds, Sandbox
from raypipe.plan.scope import quote
from raypipe.plan.types import plain
from raypipe.plan.views.clocks import CLOCK, clock_row
from raypipe.plan.views.model import (
    WEIGHT,
    Algebraic,
    Bilinear,
    Clock,
    Keyed,
    Linear,
    Operator,
    Scan,
    Union,
    leaf_names,
)

_ROUNDS = (0, 3, 9, 17)  # rows of each table
_DAY = date(2024, 1, 1)
_NOW = clock_row(datetime(_DAY.year, _DAY.month, _DAY.day, 3, tzinfo=UTC).timestamp())


def differs(operators: Sequence[Operator], inputs: Mapping[str, TableSchema], oracle: str, tree: exp.Expr) -> bool:
    """Whether operators and oracle disagree on any of some invented tables; what fails on the rows proves nothing.

    Args:
        operators: Of the view.
        inputs: It reads, by name.
        oracle: SQL over the inputs' own names.
        tree: Of the SQL; its literals become values.
    """
    literals = list(tree.find_all(exp.Literal))
    sandbox = Sandbox(Bounds(statement_s=10.0))
    try:
        for size in _ROUNDS:
            rng = np.random.default_rng(size)
            tables = {name: _invented(schema, size, literals, rng) for name, schema in inputs.items()}
            if _disagree(sandbox, operators, inputs, tables, oracle):
                return True
    finally:
        sandbox.close()
    return False


def _disagree(
    sandbox: Sandbox,
    operators: Sequence[Operator],
    inputs: Mapping[str, TableSchema],
    tables: Mapping[str, pa.Table],
    oracle: str,
) -> bool:
    for place, (name, schema) in enumerate(inputs.items()):
        sandbox.register(f"_invented_{place}", tables[name])
        parts = (schema.table.instance, schema.table.table) if schema.table.instance else (name,)
        if schema.table.instance:
            sandbox.ask(f"CREATE SCHEMA IF NOT EXISTS {quote(schema.table.instance)}")
        target = ".".join(quote(part) for part in parts)
        sandbox.ask(f"CREATE OR REPLACE VIEW {target} AS SELECT * FROM _invented_{place}")
    sandbox.register(CLOCK, _NOW)
    try:
        expected = sandbox.query(oracle)
    except (duckdb.Error, LimitExceeded):
        return False
    try:
        made = _evaluated(sandbox, operators, tables)
    except (duckdb.Error, LimitExceeded):
        return True
    return made is None or not _equal(sandbox, made, expected)


def _evaluated(sandbox: Sandbox, operators: Sequence[Operator], tables: Mapping[str, pa.Table]) -> pa.Table | None:
    """The last relation, every operator run over everything; None if one is not what it relies on being."""
    made: dict[str, pa.Table] = {}
    for operator in operators:
        out = operator.out
        if isinstance(operator, Scan):
            rows = tables[operator.relation].select(out.columns.names).cast(out.columns)
        elif isinstance(operator, Clock):
            rows = _NOW.cast(out.columns)
        elif isinstance(operator, Union):
            rows = pa.concat_tables([made[name].rename_columns(out.columns.names) for name in operator.inputs])
        elif isinstance(operator, Linear) and operator.renames:
            rows = made[operator.input].select(list(operator.renames)).rename_columns(out.columns.names)
        elif isinstance(operator, Algebraic):
            rows = _added(sandbox, operator, made[operator.input])
        else:
            inputs = [made[name] for name in operator.inputs]
            rows = _run(sandbox, operator, inputs)
            if isinstance(operator, Keyed) and not operator.constant:
                halves = [_run(sandbox, operator, _half(sandbox, operator, inputs, half)) for half in (0, 1)]
                if not _equal(sandbox, pa.concat_tables(halves), rows):
                    return None
        made[out.name] = rows
    return made[operators[-1].out.name]


def _run(sandbox: Sandbox, operator: Linear | Bilinear | Keyed, inputs: Sequence[pa.Table]) -> pa.Table:
    weighted = not isinstance(operator, Keyed)
    for name, rows in zip(leaf_names(operator.out.name, len(inputs)), inputs, strict=True):
        ones = pa.array(np.ones(rows.num_rows, np.int64))
        sandbox.register(name, rows.append_column(WEIGHT, ones) if weighted else rows)
    rows = sandbox.query(operator.sql)
    rows = rows.drop_columns([WEIGHT]) if weighted else rows
    return rows.cast(operator.out.columns)


def _added(sandbox: Sandbox, operator: Algebraic, rows: pa.Table) -> pa.Table:
    """Groups of rows, added to none."""
    changes, before, _ = leaf_names(operator.out.name, 3)
    weighted = rows.append_column(WEIGHT, pa.array(np.ones(rows.num_rows, np.int64)))
    sandbox.register(changes, weighted)
    sandbox.register(before, operator.sums.columns.empty_table())
    made = sandbox.query(operator.sql)
    sandbox.register(before, made.filter(made.column("came")).select(operator.sums.columns.names))
    return sandbox.query(operator.whole).cast(operator.out.columns)


def _half(sandbox: Sandbox, operator: Keyed, inputs: Sequence[pa.Table], half: int) -> list[pa.Table]:
    """Rows of about half of the keys."""
    chosen: list[pa.Table] = []
    for read, rows in zip(operator.reads, inputs, strict=True):
        if read.key is not None:
            sandbox.register("_all", rows)
            names = ", ".join(quote(name) for name in read.key)
            some = sandbox.query(f"SELECT * FROM _all WHERE hash(coalesce(hash({names}), 0)) % 2 = {half}")
            chosen.append(some.cast(rows.schema))
        else:
            chosen.append(rows)
    return chosen


def _equal(sandbox: Sandbox, made: pa.Table, expected: pa.Table) -> bool:
    """Whether two tables hold the same rows by place of the columns, floats to nine digits."""
    names = [f"c{place}" for place in range(made.num_columns)]
    made = made.rename_columns(names)
    expected = pa.table([column.cast(plain(column.type)) for column in expected.columns], names=names)
    sandbox.register("_made", made)
    sandbox.register("_expected", expected)
    shown = ", ".join(
        f"CASE WHEN {name} = 0 OR NOT isfinite({name}) THEN {name} ELSE round({name}, 6) END AS {name}"
        if pa.types.is_floating(field.type)
        else name
        for name, field in zip(names, made.schema, strict=True)
    )
    rows = sandbox.query(
        f"SELECT 1 FROM ((SELECT {shown} FROM _made EXCEPT ALL SELECT {shown} FROM _expected) UNION ALL "
        f"(SELECT {shown} FROM _expected EXCEPT ALL SELECT {shown} FROM _made)) LIMIT 1"
    )
    return bool(rows.num_rows == 0)


def _invented(schema: TableSchema, size: int, literals: Sequence[exp.Expr], rng: np.random.Generator) -> pa.Table:
    columns = []
    for field in schema.arrow():
        type_ = plain(field.type)
        values = _values(type_, literals)
        picked = [values[index] for index in rng.integers(0, len(values), size)]
        columns.append(pa.array(picked, type_))
    table = pa.table(columns, schema=pa.schema([pa.field(f.name, plain(f.type)) for f in schema.arrow()]))
    if not schema.key or schema.branches > 1:
        return table
    seen: set[tuple[object, ...]] = set()
    kept = []
    for index, row in enumerate(table.select(list(schema.key)).to_pylist()):
        key = tuple(row.values())
        if None not in key and key not in seen:
            seen.add(key)
            kept.append(index)
    return table.take(pa.array(kept, pa.int64()))


def _values(type_: pa.DataType, literals: Sequence[exp.Expr]) -> list[object]:
    types = pa.types
    texts = [str(node.this) for node in literals if node.is_string]
    numbers = [str(node.this) for node in literals if not node.is_string]
    whole = [int(text) for text in numbers if text.isdigit() and int(text) < 100]
    if types.is_integer(type_):
        return [None, 0, 1, 1, 2, 2, 3, 4, *whole, *(number + 1 for number in whole)]
    if types.is_floating(type_):
        return [None, 0.5, 1.0, 2.25, *map(float, whole)]
    if types.is_decimal(type_):
        return [
            value
            for value in (None, Decimal(0), Decimal(1), Decimal(2), Decimal(3), *map(Decimal, whole))
            if value is None or value < 10 ** (type_.precision - type_.scale)
        ]
    if types.is_string(type_) or types.is_large_string(type_):
        return [None, "a", "b", "c", *texts]
    if types.is_boolean(type_):
        return [None, True, False]
    if types.is_date(type_):
        return [None, *(_DAY + timedelta(days=index) for index in range(4)), *_days(texts)]
    if types.is_timestamp(type_):
        days = [_DAY, *_days(texts)]
        return [None, *(datetime(d.year, d.month, d.day, hour) for d in days for hour in (0, 1, 5))]
    if types.is_list(type_):
        inner = _values(type_.value_type, literals)
        return [None, [], inner[:1], inner[1:3]]
    if types.is_binary(type_):
        return [None, b"a", b"b"]
    return [None]


def _days(texts: Sequence[str]) -> list[date]:
    found = []
    for text in texts:
        try:
            found.append(date.fromisoformat(text[:10]))
        except ValueError:
            continue
    return [each for day in found for each in (day - timedelta(days=1), day, day + timedelta(days=1))]
