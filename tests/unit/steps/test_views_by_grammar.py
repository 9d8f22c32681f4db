"""10,000 cases: SQL out of a grammar, kept over random histories, equals what DuckDB returns at every cut.

A case is one view at one cut of one history: what it holds after another random epoch, maybe computed twice because of
a crash, is compared with DuckDB. CI has fixed seeds, so that it fails for a change and not for its luck;
``RAYPIPE_VIEW_SEED`` chooses others and ``RAYPIPE_VIEW_CASES`` another number. A case that fails is made smaller and
written to ``golden/``, where the next run finds it first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from raypipe_view_cases import TABLES
from raypipe_view_histories import Cuts, History, invented, kept, on_disk
from raypipe_view_shrink import GOLDEN, failure, read, shrunk, write
from raypipe_view_sql import Grammar

from raypipe.errors import RaypipeError, SqlError
from raypipe.plan import compile_step
from raypipe.plan.views import ViewPlan
from raypipe.steps.views import operators

SEED = int(os.environ.get("RAYPIPE_VIEW_SEED", "20261127"))
CASES = int(os.environ.get("RAYPIPE_VIEW_CASES", "10000"))
PARTS = 16
HISTORIES, CUTS = 4, 25
# In memory where there is a file system for it: what a disk does is tested elsewhere, and here it would be the clock.
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def histories() -> Iterator[list[tuple[History, Cuts]]]:
    made = [invented(SEED + number, CUTS) for number in range(HISTORIES)]
    opened = [(history, Cuts(history)) for history in made]
    yield opened
    for _, cuts in opened:
        cuts.close()


@pytest.fixture
def state_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rpviews", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_case_that_failed_once_holds(path: Path) -> None:
    sql, states = read(path)
    assert not failure(sql, states), sql


def test_a_case_that_fails_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "negated", lambda rows: rows.slice(0, 0))  # what was there before is forgotten
    sql = "SELECT k, name, max(id) AS most FROM shop.a WHERE k > 0 OR k <= 0 GROUP BY k, name HAVING count(*) > 0"
    states = invented(3, 12).states
    assert failure(sql, states)
    smaller, fewer = shrunk(sql, states)
    assert failure(smaller, fewer)
    assert len(smaller) < len(sql)
    assert len(fewer) == 2


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_any_statement_of_the_grammar_equals_its_sql_at_every_cut(
    part: int, histories: list[tuple[History, Cuts]], state_folder: Path
) -> None:
    done = number = made = 0
    while done < CASES // PARTS:
        seed = (SEED, part, number)
        sql = Grammar(np.random.default_rng(seed)).statement()
        number += 1
        try:
            plan = compile_step("v", sql, TABLES, {})
        except SqlError:
            continue  # it has several right answers
        if not isinstance(plan, ViewPlan):
            continue
        made += 1
        history, cuts = histories[number % HISTORIES]
        folder = state_folder / str(number)
        reached = 0
        try:
            with closing(kept(plan, history, cuts, on_disk(folder))) as wrongs:
                for wrong in wrongs:
                    assert not wrong
                    reached += 1
        except (AssertionError, RaypipeError) as error:
            told = f"seed {seed}, cut {reached}: {error}\n{sql}"
            case = shrunk(sql, history.states[: reached + 1])
            if failure(*case):
                told += f"\nmade smaller, in {write(case, str(error))}:\n{case[0]}"
            pytest.fail(told)
        done += reached
        shutil.rmtree(folder)
    assert made > number * 0.8, "most statements are to be kept, not refused"
