"""Histories of tables that many views are kept over, and DuckDB over the tables at every cut of them.

A history is made once and serves every view: its changes as Arrow, its cuts as databases of one DuckDB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from raypipe_view_cases import TABLES, World

from raypipe.contracts import WEIGHT, StateStore, TraceSchema
from raypipe.model import TableSchema
from raypipe.plan.sandbox import Sandbox
from raypipe.plan.views import ViewPlan
from raypipe.plan.views.clocks import CLOCK, clock_row
from raypipe.state import Store
from raypipe.steps.views import View
from raypipe.steps.views.multiset import Multiset

Row = Mapping[str, Any]
State = Mapping[str, Sequence[Row]]
Epoch = Mapping[str, pa.Table]
# Opens the state of a view; asked again after a crash, it opens what is there.
Opening = Callable[[Sequence[TraceSchema]], AbstractContextManager[StateStore]]

# Cuts are made eight hours apart, while the days that rows have go by.
_BEGIN_S, _APART_S = 1_704_067_200.0, 8 * 3600.0

# One in so many epochs is computed and thrown away first, as a crash before the commit leaves it.
CRASHES = 8


@dataclass(frozen=True, kw_only=True)
class History:
    """Tables at their cuts, and the changes between them.

    Attributes:
        states: Rows of each table at every cut.
        epochs: Weighted changes by table that lead to each cut, in the order and as often as they were made.
        crashes: Of each epoch, whether it is computed twice because the first time was interrupted.
    """

    states: Sequence[State]
    epochs: Sequence[Epoch]
    crashes: Sequence[bool]


def invented(seed: int, cuts: int, tables: Mapping[str, TableSchema] = TABLES) -> History:
    """A random history: many epochs are small, some replace most rows, some change nothing."""
    rng = np.random.default_rng(seed)
    world = World(rng, tables)
    states, epochs = [], []
    for _ in range(cuts):
        for _ in range(int(rng.choice([0, 1, 2, 3, 5, 8, 20], p=[0.05, 0.2, 0.2, 0.2, 0.15, 0.1, 0.1]))):
            world.write()
        epochs.append(world.epoch())
        states.append({name: [dict(row) for row in rows] for name, rows in world.rows.items()})
    return History(states=states, epochs=epochs, crashes=[bool(each) for each in rng.random(cuts) < 1 / CRASHES])


def between(states: Sequence[State], tables: Mapping[str, TableSchema] = TABLES) -> History:
    """The history that leads through some states by what differs between them."""
    epochs = []
    before: dict[str, list[Row]] = {name: [] for name in tables}
    for state in states:
        epoch = {}
        for name, schema in tables.items():
            gone = list(before[name])
            come = []
            for row in state[name]:
                same = next((place for place, old in enumerate(gone) if repr(old) == repr(row)), None)
                if same is None:
                    come.append(row)
                else:
                    gone.pop(same)
            if gone or come:
                rows = pa.Table.from_pylist([*gone, *come], schema=schema.arrow())
                weights = pa.array([-1] * len(gone) + [1] * len(come), pa.int64())
                epoch[name] = rows.append_column(WEIGHT, weights)
        epochs.append(epoch)
        before = {name: list(state[name]) for name in tables}
    return History(states=states, epochs=epochs, crashes=[False] * len(states))


class Cuts:
    """DuckDB over the tables of a history, one database for each cut.

    Args:
        history: Of the tables.
        tables: Their schemas.
    """

    def __init__(self, history: History, tables: Mapping[str, TableSchema] = TABLES) -> None:
        self._database = duckdb.connect(config={"threads": 1})
        self._database.execute("SET TimeZone = 'UTC'")
        for number, state in enumerate(history.states):
            self._database.execute(f"ATTACH ':memory:' AS cut{number}")
            self._database.execute(f"CREATE SCHEMA cut{number}.shop")
            self._database.register("rows", clock_row(_BEGIN_S + _APART_S * number))
            self._database.execute(f"CREATE TABLE cut{number}.{CLOCK} AS SELECT * FROM rows")
            for name, schema in tables.items():
                self._database.register("rows", pa.Table.from_pylist(list(state[name]), schema=schema.arrow()))
                self._database.execute(f"CREATE TABLE cut{number}.{name} AS SELECT * FROM rows")

    def expected(self, sql: str, number: int) -> pa.Table:
        """What a query returns at a cut."""
        self._database.execute(f"USE cut{number}")
        return self._database.sql(sql).to_arrow_table()

    def close(self) -> None:
        """Forgets the tables."""
        self._database.close()


def on_disk(folder: Path) -> Opening:
    """State as a pipeline keeps it."""
    generations: list[int] = []

    @contextmanager
    def opened(traces: Sequence[TraceSchema]) -> Iterator[StateStore]:
        generations.append(len(generations) + 1)
        store = Store.open(folder, generation=generations[-1], identity="oracle", traces=traces)
        try:
            yield store
        finally:
            store.close()

    return opened


def kept(plan: ViewPlan, history: History, cuts: Cuts, opening: Opening) -> Generator[str, None, None]:
    """Keeps a view over a history: yields for each cut what is wrong there, empty if nothing is.

    A crash forgets everything in memory: the epoch was computed, not committed; the state is opened again.
    """
    columns = plan.schema.arrow()
    held = pa.schema([*columns, pa.field(WEIGHT, pa.int64())]).empty_table()
    sandbox = Sandbox()
    try:
        number = 0
        crashed: set[int] = set()
        while number < len(history.epochs):
            with opening(plan.traces) as state:
                view, adding = View(plan, sandbox), Multiset(sandbox)
                while number < len(history.epochs):
                    work = state.begin(number if number else None)
                    changes = view.run(history.epochs[number], work, first=not number, at=_BEGIN_S + _APART_S * number)
                    if history.crashes[number] and number not in crashed:
                        crashed.add(number)
                        work.abort()
                        break
                    work.commit(number + 1)
                    state.keep([number + 1])
                    held = adding.total(columns, [held, changes])
                    yield _wrong(plan, held, cuts.expected(plan.oracle, number))
                    number += 1
    finally:
        sandbox.close()


def _wrong(plan: ViewPlan, held: pa.Table, expected: pa.Table) -> str:
    weights = held.column(WEIGHT).to_numpy()
    if (weights < 0).any():
        return "a row went that never came"
    rows = held.drop_columns([WEIGHT]).take(pa.array(np.repeat(np.arange(len(weights)), weights), pa.int64()))
    if plan.schema.key:
        keys = [tuple(map(repr, each.values())) for each in rows.select(list(plan.schema.key)).to_pylist()]
        if len(keys) != len(set(keys)):
            return f"key {plan.schema.key} does not tell the rows apart"
    wanted, found = _comparable(expected), _comparable(rows)
    return "" if wanted == found else f"expected {wanted}, found {found}"


def _comparable(rows: pa.Table) -> list[str]:
    """Rows as text, floats to nine digits."""
    columns = [
        [_rounded(value) for value in column.to_pylist()] if _may_round(column.type) else column.to_pylist()
        for column in rows.columns
    ]
    return sorted(map(repr, zip(*columns, strict=True)))


def _may_round(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_list(type_))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else float(f"{value:.9g}") + 0.0
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
