"""Failing cases: made smaller, written as a file that the tests replay, and read from it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from raypipe_view_cases import TABLES
from raypipe_view_histories import Cuts, State, between, kept, on_disk
from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from raypipe.errors import RaypipeError
from raypipe.plan import compile_step
from raypipe.plan.views import ViewPlan

Case = tuple[str, list[dict[str, list[dict[str, Any]]]]]  # SQL, states of the tables

GOLDEN = Path(__file__).parent / "golden"
_CLAUSES = ("where", "having", "qualify", "order", "limit", "distinct", "group", "with_")
# So many variants are tried; each takes about a quarter of a second.
_MOST_TRIES = 400


def failure(sql: str, states: Sequence[State]) -> str:
    """What is wrong with a view that goes through some states; empty if nothing is, or if it is no view."""
    try:
        plan = compile_step("v", sql, TABLES, {})
    except RaypipeError:
        return ""
    if not isinstance(plan, ViewPlan):
        return ""
    history = between(states)
    with closing(Cuts(history)) as cuts, tempfile.TemporaryDirectory(prefix="rpviews") as folder:
        try:
            with closing(kept(plan, history, cuts, on_disk(Path(folder)))) as wrongs:
                return next((wrong for wrong in wrongs if wrong), "")
        except (AssertionError, RaypipeError) as error:
            return f"{type(error).__name__}: {error}"


def shrunk(sql: str, states: Sequence[State]) -> Case:
    """A smaller case that fails as well."""
    tries = 0

    def fails(sql: str, states: Sequence[State]) -> bool:
        nonlocal tries
        tries += 1
        return tries <= _MOST_TRIES and bool(failure(sql, states))

    now: Case = (sql, [{name: [dict(row) for row in rows] for name, rows in state.items()} for state in states])
    while smaller := next((each for each in _smaller(now) if fails(*each)), None):
        now = smaller
    return now


def _smaller(case: Case) -> Iterator[Case]:
    sql, states = case
    for place in reversed(range(len(states))):
        yield sql, [*states[:place], *states[place + 1 :]]
    for variant in _simpler(sql):
        yield variant, states
    rows = {(name, repr(row)) for state in states for name, held in state.items() for row in held}
    for gone in sorted(rows):
        yield sql, [_without(state, gone) for state in states]


def _without(state: Mapping[str, list[dict[str, Any]]], gone: tuple[str, str]) -> dict[str, list[dict[str, Any]]]:
    return {name: [row for row in rows if (name, repr(row)) != gone] for name, rows in state.items()}


def _simpler(sql: str) -> Iterator[str]:
    """The SQL with one part left out."""
    count = sum(1 for _ in parse_one(sql, dialect="duckdb").walk())
    for place in range(count):
        for cut in (_clause, _item, _branch, _side):
            for part in range(12):
                tree = parse_one(sql, dialect="duckdb")
                node = list(tree.walk())[place]
                if not cut(node, part):
                    break
                try:
                    yield tree.sql("duckdb")
                except SqlglotError:
                    continue


def _clause(node: exp.Expr, part: int) -> bool:
    given = [name for name in _CLAUSES if isinstance(node, exp.Query) and node.args.get(name)]
    if part < len(given):
        node.set(given[part], None)
    return part < len(given)


def _item(node: exp.Expr, part: int) -> bool:
    if not isinstance(node, exp.Select | exp.Group) or len(node.expressions) < 2 or part >= len(node.expressions):
        return False
    node.set("expressions", [each for place, each in enumerate(node.expressions) if place != part])
    return True


def _branch(node: exp.Expr, part: int) -> bool:
    joins = node.args.get("joins") if isinstance(node, exp.Select) else None
    if not joins or part >= len(joins):
        return False
    node.set("joins", [each for place, each in enumerate(joins) if place != part])
    return True


def _side(node: exp.Expr, part: int) -> bool:
    if not isinstance(node, exp.And | exp.Or | exp.SetOperation) or part > 1 or node.parent is None:
        return False
    node.replace((node.this, node.expression)[part].copy())
    return True


def write(case: Case, wrong: str) -> Path:
    """Keeps a case as a file of the tests; it is named by its SQL."""
    sql, states = case
    GOLDEN.mkdir(exist_ok=True)
    path = GOLDEN / f"{abs(hash_of(sql)):08x}.json"
    rows = [
        {
            name: [{column: _text(value) for column, value in row.items()} for row in held]
            for name, held in state.items()
        }
        for state in states
    ]
    path.write_text(json.dumps({"sql": sql, "wrong": wrong[:300], "states": rows}, indent=1) + "\n")
    return path


def read(path: Path) -> Case:
    """Reads what ``write`` wrote."""
    fields = json.loads(path.read_text())
    states = []
    for state in fields["states"]:
        made = {}
        for name, rows in state.items():
            arrow = TABLES[name].arrow()
            columns = [pa.array([row[field.name] for row in rows], pa.string()).cast(field.type) for field in arrow]
            made[name] = pa.table(columns, schema=arrow).to_pylist()
        states.append(made)
    return fields["sql"], states


def hash_of(text: str) -> int:
    """The same in every process."""
    return int.from_bytes(text.encode(), "big") % 0xFFFFFFFB


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool | float) else str(value)
