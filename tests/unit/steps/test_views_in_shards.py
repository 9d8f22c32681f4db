"""A view whose state is in several shards holds what its SQL returns, whatever shard a row is at."""

from __future__ import annotations

from functools import partial

import pytest
from raypipe_view_cases import TABLES, run
from raypipe_view_shards import Sharded
from test_views_are_exact import STATEMENTS

from raypipe import faults
from raypipe.errors import InvariantBroken
from raypipe.plan import compile_step
from raypipe.plan.views import ViewPlan


def check(sql: str, seed: int, shards: int) -> str:
    plan = compile_step("v", sql, TABLES, {})
    assert isinstance(plan, ViewPlan), sql
    return run(plan, seed, 40, TABLES, partial(Sharded, shards=shards))


@pytest.mark.parametrize("sql", STATEMENTS)
def test_shards_together_hold_what_the_sql_returns(sql: str) -> None:
    assert not check(sql, len(sql), 2 + len(sql) % 2)


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
