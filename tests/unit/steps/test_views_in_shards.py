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
    for seed, shards in ((0, 2), (1, 3)):
        assert not check(sql, seed, shards)
