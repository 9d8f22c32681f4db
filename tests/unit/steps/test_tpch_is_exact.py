"""The 22 queries of TPC-H as stateful steps: at every cut of a refresh stream each holds what DuckDB says."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.kept import Kept
from benchmarks.tpch.invent import Inventor, Scale
from benchmarks.tpch.queries import TINY, steps
from benchmarks.tpch.refresh import Refreshed
from raypipe.plan.views import ViewPlan

# 1,500 orders. The seed is fixed: the queries' parameters were chosen for its rows.
FACTOR, SEED = 0.001, 1
CUTS, ORDERS = 4, 20


@pytest.mark.timeout(300)
def test_every_query_holds_what_duckdb_says_at_every_cut_of_a_refresh_stream(tmp_path: Path) -> None:
    refreshed = Refreshed(Inventor(Scale(factor=FACTOR), SEED))
    with closing(refreshed.tables) as tables:
        refreshed.load()
        with closing(Kept(tmp_path / "state", tables, steps(TINY))) as kept:
            assert all(isinstance(step, ViewPlan) for step in kept.steps.values())
            full = set()
            for number in range(CUTS):
                if number:
                    refreshed.insert(ORDERS)
                    refreshed.delete(ORDERS)
                    refreshed.update(ORDERS)
                if number == CUTS - 2:
                    kept.reopen()
                kept.epoch(tables.epoch())
                assert not kept.differing()
                full |= {
                    name
                    for name in kept.steps
                    if any(column.null_count < len(column) for column in kept.contents(name))
                }
            assert full == set(kept.steps), "a query that chooses nothing proves nothing"
