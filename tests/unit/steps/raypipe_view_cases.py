"""Random tables, random transactions and random SQL for stateful steps, and the oracle that they must agree with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from raypipe_memory_state import MemoryState

from raypipe.contracts import WEIGHT
from raypipe.model import Column, TableName, TableSchema
from raypipe.plan import compile_step
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views import ViewPlan
from raypipe.steps.views import View
from raypipe.steps.views.multiset import Multiset

Rng = np.random.Generator

COLUMNS = {
    "k": pa.int64(),
    "small": pa.int32(),
    "price": pa.decimal128(10, 2),
    "name": pa.string(),
    "x": pa.float64(),
    "flag": pa.bool_(),
    "day": pa.date32(),
}


# Events happen within an hour from here on.
_BEGIN = datetime(2024, 1, 1)


def table(name: str, key: tuple[str, ...]) -> TableSchema:
    """A table with an id and every kind of column."""
    columns = [Column(name="id", type=pa.int64()), *(Column(name=n, type=t) for n, t in COLUMNS.items())]
    return TableSchema(table=TableName("shop", "main", name), columns=tuple(columns), key=key)


TABLES = {"shop.a": table("a", ("id",)), "shop.b": table("b", ("id",)), "shop.c": table("c", ())}


def value(rng: Rng, type_: pa.DataType) -> Any:
    """A value out of few, often NULL."""
    if rng.random() < 0.2:
        return None
    n = int(rng.integers(0, 4))
    if pa.types.is_decimal(type_):
        return Decimal(n) + Decimal("0.25") * int(rng.integers(0, 2))
    if pa.types.is_floating(type_):
        return [0.1, 0.2, 0.3, 1e6, -0.0, math.nan][int(rng.integers(0, 6))]
    if pa.types.is_string(type_):
        return "abcd"[n] * int(rng.integers(1, 3))
    if pa.types.is_boolean(type_):
        return n % 2 == 0
    if pa.types.is_timestamp(type_):
        return _BEGIN + timedelta(minutes=int(rng.integers(0, 60)), seconds=int(rng.integers(0, 3)) * 10)
    if pa.types.is_date(type_):
        return np.datetime64("2024-01-01") + n
    return n


def row(rng: Rng, schema: TableSchema, id_: int | None) -> dict[str, Any]:
    """A row; its id is given."""
    made = {column.name: value(rng, column.type) for column in schema.columns}
    if schema.key:
        made["id"] = id_
    if made.get("day") is not None:
        made["day"] = made["day"].astype(object)
    return made


class World:
    """The source tables as they are, and the changes since the last cut."""

    def __init__(self, rng: Rng, tables: Mapping[str, TableSchema]) -> None:
        self._rng = rng
        self._tables = tables
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in tables}
        self.changes: dict[str, list[tuple[dict[str, Any], int]]] = {name: [] for name in tables}

    def write(self) -> None:
        """One random change of one random table."""
        rng = self._rng
        name = list(self._tables)[int(rng.integers(0, len(self._tables)))]
        schema, rows = self._tables[name], self.rows[name]
        verb = rng.choice(["insert", "insert", "update", "update", "delete", "again", "key"])
        if verb == "insert" or not rows:
            id_ = int(rng.integers(0, 12))
            if schema.key and any(each["id"] == id_ for each in rows):
                return
            self._put(name, row(rng, schema, id_))
            return
        old = rows[int(rng.integers(0, len(rows)))]
        if verb == "delete":
            self._take(name, old)
        elif verb == "again":
            self._take(name, old)
            self._put(name, dict(old))
        elif verb == "update":
            column = str(rng.choice([each for each in schema.names if each != "id"]))
            self._take(name, old)
            self._put(name, old | {column: row(rng, schema, old["id"])[column]})
        else:
            id_ = int(rng.integers(0, 12))
            if schema.key and any(each["id"] == id_ for each in rows):
                return
            self._take(name, old)
            self._put(name, old | {"id": id_})

    def _put(self, name: str, made: dict[str, Any]) -> None:
        self.rows[name].append(made)
        self.changes[name].append((made, 1))

    def _take(self, name: str, old: dict[str, Any]) -> None:
        self.rows[name].remove(old)
        self.changes[name].append((old, -1))

    def epoch(self) -> dict[str, pa.Table]:
        """Weighted changes by table since this was last asked."""
        made = {}
        for name, changes in self.changes.items():
            if changes:
                rows = pa.Table.from_pylist([each for each, _ in changes], schema=self._tables[name].arrow())
                made[name] = rows.append_column(WEIGHT, pa.array([weight for _, weight in changes], pa.int64()))
        self.changes = {name: [] for name in self._tables}
        return made


class Oracle:
    """DuckDB over the tables as they are."""

    def __init__(self, tables: Mapping[str, TableSchema]) -> None:
        self._tables = tables
        self._database = duckdb.connect(config={"threads": 1})
        self._database.execute("SET TimeZone = 'UTC'")
        self._database.execute("CREATE SCHEMA shop")

    def differences(self, sql: str, world: World, held: pa.Table, at: float) -> list[Any]:
        """Rows that the SQL makes and the view lacks, or the other way round; floats to nine digits."""
        for name, schema in self._tables.items():
            self._database.register("rows", pa.Table.from_pylist(world.rows[name], schema=schema.arrow()))
            self._database.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM rows")
        now = pa.table({"now": pa.array([datetime.fromtimestamp(at, UTC)], pa.timestamp("us", "UTC"))})
        self._database.register("_raypipe_now", now)
        expected = self._database.sql(sql).to_arrow_table()
        return sorted(_comparable(expected), key=repr), sorted(_comparable(held), key=repr)  # type: ignore[return-value]

    def close(self) -> None:
        self._database.close()


def _comparable(rows: pa.Table) -> list[Any]:
    return [
        tuple(_rounded(each) for each in made.values())
        for made in rows.rename_columns([f"c{i}" for i in range(rows.num_columns)]).to_pylist()
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return float(f"{value:.9g}") + 0.0
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return value


def check(
    sql: str,
    seed: int,
    *,
    writes: int = 40,
    tables: Mapping[str, TableSchema] = TABLES,
    recompute_rows: int | None = None,
) -> str:
    """Runs one view over random epochs; returns what went wrong, empty if nothing did."""
    plan = compile_step("v", sql, tables, {}, recompute_rows=recompute_rows)
    assert isinstance(plan, ViewPlan), sql
    return run(plan, seed, writes, tables)


class Alone:
    """A view whose state is in one piece."""

    def __init__(self, plan: ViewPlan) -> None:
        self._state = MemoryState(plan.traces)
        self._sandbox = Sandbox()
        self._view = View(plan, self._sandbox)
        self._version: int | None = None

    def epoch(self, changes: Mapping[str, pa.Table], at: float) -> pa.Table:
        """Carries it on to a cut of a time; returns its changes."""
        work = self._state.begin(self._version)
        made = self._view.run(changes, work, first=self._version is None, at=at)
        self._version = (self._version or 0) + 1
        work.commit(self._version)
        return made

    def close(self) -> None:
        self._sandbox.close()
        self._state.close()


def run(
    plan: ViewPlan,
    seed: int,
    writes: int,
    tables: Mapping[str, TableSchema],
    kept: Callable[[ViewPlan], Any] = Alone,
) -> str:
    """Runs a planned view over random epochs; says how it is kept."""
    rng = np.random.default_rng(seed)
    world = World(rng, tables)
    names = [column.name for column in plan.schema.columns]
    held = pa.schema([*plan.schema.arrow(), pa.field(WEIGHT, pa.int64())]).empty_table()
    with closing(Oracle(tables)) as oracle, closing(Sandbox()) as sandbox, closing(kept(plan)) as view:
        multiset = Multiset(sandbox)
        at = _BEGIN.replace(tzinfo=UTC).timestamp()
        for epoch in range(1 + int(rng.integers(2, 6))):
            for _ in range(int(rng.integers(0, writes // 3))):
                world.write()
            at += float(rng.integers(-60, 1200))  # a clock may be set back
            held = multiset.total(plan.schema.arrow(), [held, view.epoch(world.epoch(), at)])
            weights = held[WEIGHT].to_pylist()
            if min(weights, default=1) < 0:
                return f"epoch {epoch}: a row went that never came"
            rows = held.drop_columns([WEIGHT]).take(pa.array(np.repeat(np.arange(len(weights)), weights), pa.int64()))
            expected, found = oracle.differences(plan.oracle, world, rows, at)
            if expected != found:
                return f"epoch {epoch}: expected {expected}, found {found}"
            if plan.schema.key:
                keys = [tuple(map(repr, each.values())) for each in rows.select(list(plan.schema.key)).to_pylist()]
                if len(keys) != len(set(keys)):
                    return f"epoch {epoch}: key {plan.schema.key} of {names} is not one"
    return ""
