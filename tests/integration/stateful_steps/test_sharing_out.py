"""State is shared out to another number of shards: all of it or none, whatever happens meanwhile."""

from __future__ import annotations

import logging
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest
from shop_of_views import Shop
from test_stateful_pipelines import proved

from raypipe.errors import Fenced
from raypipe.local.demand import Demand
from raypipe.local.run import run_local
from raypipe.local.stateful import Stateful
from raypipe.log import open_log


@pytest.fixture
def shop(tmp_path: Path, seed: int) -> Shop:
    """A shop with state in three shards."""
    shop = Shop(tmp_path, seed)
    shop.trade(80)
    plan = shop.plan()
    run_local(plan)
    with closing(open_log(plan.log, pipeline=plan.pipeline)) as log:
        generation = log.claim(plan.pipeline).generation
        with closing(Stateful(plan, Demand.of(plan), log.identity, shard=0, shards=3)) as first:
            first.open(generation)
    assert layouts(shop) == {"3"}
    return shop


def layouts(shop: Shop) -> set[str]:
    return {path.name for path in (shop.folder / "views.state").iterdir()}


def test_the_run_that_shares_it_out_goes_on_and_loads_nothing(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.trade(30)
    with caplog.at_level(logging.INFO, "raypipe"):
        run_local(shop.plan())
    assert "will be loaded again" not in caplog.text
    assert layouts(shop) == {"1"}
    proved(shop)


@pytest.mark.chaos
@pytest.mark.parametrize("point", ["shards.cut", "shards.shared", "shards.named"])
def test_a_run_killed_while_it_shares_out_leaves_all_of_it(
    point: str, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.trade(30)
    assert shop.run(faults=f"{point}=kill@1").returncode == -signal.SIGKILL
    with caplog.at_level(logging.INFO, "raypipe"):
        run_local(shop.plan())
    assert "will be loaded again" not in caplog.text
    assert layouts(shop) == {"1"}
    proved(shop)


def test_a_layout_with_a_shard_missing_counts_as_lost(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    for file in (shop.folder / "views.state" / "3" / "1" / "traces").iterdir():
        file.unlink()
    shop.trade(30)
    with caplog.at_level(logging.INFO, "raypipe"):
        run_local(shop.plan())
    assert "will be loaded again" in caplog.text
    proved(shop)


def test_an_older_run_that_wakes_removes_nothing_of_its_successor(shop: Shop) -> None:
    run_local(shop.plan())
    plan, folder = shop.plan(), shop.folder / "views.state"
    with closing(open_log(plan.log, pipeline=plan.pipeline)) as log:
        older, newer = (log.claim(plan.pipeline).generation for _ in range(2))
        with closing(Stateful(plan, Demand.of(plan), log.identity)) as successor:
            successor.open(newer)
        shutil.copytree(folder / "1", folder / "2")  # as if it was about to go on in two shards
        with closing(Stateful(plan, Demand.of(plan), log.identity)) as woken, pytest.raises(Fenced):
            woken.open(older)
    assert layouts(shop) == {"1", "2"}
