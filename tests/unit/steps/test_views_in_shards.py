"""A view whose state is in several shards holds what its SQL returns, whatever shard a row is at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest
from raypipe_view_cases import TABLES, run
from raypipe_view_shards import Sharded
from test_views_are_exact import STATEMENTS
from test_views_of_time import OF_A_WATERMARK, OF_THE_CLOCK, RECOMPUTED
from test_views_of_time import TABLES as EVENTS

from raypipe import faults
from raypipe.errors import InvariantBroken
from raypipe.model import TableSchema
from raypipe.plan import compile_step
from raypipe.plan.views import ViewPlan


def check(
    sql: str,
    seed: int,
    shards: int,
    tables: Mapping[str, TableSchema] = TABLES,
    recompute_rows: int | None = None,
) -> str:
    plan = compile_step("v", sql, tables, {}, recompute_rows=recompute_rows)
    assert isinstance(plan, ViewPlan), sql
    return run(plan, seed, 40, tables, partial(Sharded, shards=shards))


@pytest.mark.parametrize("sql", STATEMENTS)
def test_shards_together_hold_what_the_sql_returns(sql: str) -> None:
    assert not check(sql, len(sql), 2 + len(sql) % 2)


OF_TIME = [*OF_THE_CLOCK.values(), *OF_A_WATERMARK.values()]


@pytest.mark.parametrize("sql", OF_TIME)
def test_shards_see_one_time_and_one_watermark(sql: str) -> None:
    assert not check(sql, len(sql), 2 + len(sql) % 2, EVENTS)


def test_a_step_that_is_computed_whole_is_computed_once() -> None:
    assert not check(RECOMPUTED["how long ago"], 5, 2, EVENTS, recompute_rows=1000)


def test_rows_whose_key_is_null_are_together_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT k, count(*) n FROM shop.c GROUP BY k"
    monkeypatch.setattr(faults, "armed", lambda name: name == "mutant.shard_unset_key")
    found = False
    for seed in range(12):
        try:
            found = found or bool(check(sql, seed, 3))
        except (AssertionError, InvariantBroken):
            found = True
    assert found
