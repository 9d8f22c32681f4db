"""Stateful steps from source to sinks: each sink holds what the SQL returns, through kills, new sinks, lost state."""

from __future__ import annotations

import logging
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from shop_of_views import TOTALS, Shop

from raypipe import faults
from raypipe.local.run import run_local
from raypipe.plan.views import ViewPlan
from raypipe.steps.views.progress import Progress
from raypipe.verify import verify


@pytest.fixture
def shop(tmp_path: Path, seed: int) -> Shop:
    made = Shop(tmp_path, seed)
    made.trade(80)
    return made


def proved(shop: Shop) -> None:
    """Every sink table equals its oracle."""
    report = verify(shop.plan())
    wrong = {f"{table.sink}.{table.table}": table for table in report.tables if not table.ok}
    assert not wrong, wrong


@pytest.fixture
def sharded(shop: Shop) -> Shop:
    shop.shards = 2
    shop.write()
    return shop


@pytest.mark.parametrize("shards", [1, 3])
def test_sinks_follow_joins_aggregates_windows_and_steps_on_steps(shards: int, shop: Shop) -> None:
    shop.shards = shards
    shop.write()
    run_local(shop.plan())
    proved(shop)
    for _ in range(5):
        shop.trade(30)
        run_local(shop.plan())
        proved(shop)


# A run without checkpoints, and with too little for a merge.
POINTS = [
    point
    for point in faults.POINTS
    if point.startswith(("state.", "epoch.views.", "sink.commit"))
    and not point.startswith(("state.checkpoint", "state.restored", "state.merge"))
]


@pytest.mark.chaos
@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_around_its_state_goes_on_exactly(point: str, sharded: Shop) -> None:
    shop = sharded  # some of the shards have committed, some have not
    run_local(shop.plan())
    killed = 0
    for _ in range(3):
        shop.trade(30)
        killed += shop.run(faults=f"{point}=kill@1").returncode == -signal.SIGKILL
    run_local(shop.plan())
    proved(shop)
    assert killed


def test_a_run_that_knew_another_step_and_died_leaves_nothing_that_is_gone_on_from(shop: Shop) -> None:
    run_local(shop.plan())
    shop.write(totals=TOTALS.replace("sum(cents)", "max(cents)"))
    assert shop.run(faults="state.open.claimed=kill@1").returncode == -signal.SIGKILL
    shop.write()
    shop.trade(30)
    run_local(shop.plan())
    proved(shop)


def test_a_changed_step_is_loaded_anew_and_the_others_go_on(shop: Shop) -> None:
    run_local(shop.plan())
    shop.write(totals=TOTALS.replace("sum(cents)", "max(cents)"))
    shop.trade(10)
    run_local(shop.plan())
    proved(shop)
    shop.trade(30)
    run_local(shop.plan())
    proved(shop)


def test_a_new_table_and_a_new_sink_are_filled(shop: Shop) -> None:
    run_local(shop.plan())
    shop.trade(20)
    shop.write(more=", best: {from: best}, rich: {from: rich}")
    run_local(shop.plan())
    proved(shop)
    (shop.folder / "office.db").unlink()
    shop.trade(20)
    run_local(shop.plan())
    proved(shop)
    shop.trade(20)
    run_local(shop.plan())
    proved(shop)


def test_lost_state_is_loaded_again_and_never_silently_wrong(shop: Shop) -> None:
    run_local(shop.plan())
    shutil.rmtree(shop.folder / "views.state")
    shop.trade(30)
    run_local(shop.plan())
    proved(shop)
    shop.trade(30)
    run_local(shop.plan())
    proved(shop)


def test_state_as_an_older_raypipe_laid_it_out_is_made_again_of_what_the_inputs_hold(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It named traces by step, and noted none of them."""
    with monkeypatch.context() as older:
        older.setattr(ViewPlan, "trace_name", lambda plan, relation, key: f"{plan.view}/{relation}/{','.join(key)}")
        noted = Progress.to_json
        older.setattr(Progress, "to_json", lambda progress: noted(replace(progress, held=set())))
        run_local(shop.plan())
    shop.trade(20)
    with caplog.at_level(logging.INFO, "raypipe"):
        run_local(shop.plan())
    assert "loaded again" not in caplog.text
    proved(shop)
    shop.trade(20)
    run_local(shop.plan())
    proved(shop)
