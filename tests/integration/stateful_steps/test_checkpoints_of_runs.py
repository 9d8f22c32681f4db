"""State that is lost is restored from a checkpoint and carried on by the log; nothing is loaded again."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from shop_of_views import Shop
from test_stateful_pipelines import proved

from raypipe import faults
from raypipe.cli.progress import one_line
from raypipe.contracts import CheckpointReport
from raypipe.engine.status import Status
from raypipe.local.run import run_local
from raypipe.local.teller import Teller
from raypipe.log import open_log

DEADLINE_S = 90.0
LOADED_AGAIN = "will be loaded again"


@pytest.fixture
def shards() -> int:
    return 3


@pytest.fixture
def shop(shards: int, tmp_path: Path, seed: int) -> Shop:
    """A shop whose sinks are ahead of the newest checkpoint of its state."""
    made = Shop(tmp_path, seed, shards=shards, checkpoints="saved")
    made.trade(80)
    go_ahead(made)
    return made


def until(shop: Shop, holds: Callable[[Status], bool]) -> Status:
    """Runs until something is said of the run."""
    stop, held = Event(), list[Status]()

    def look(status: Status) -> None:
        if not held and holds(status):
            held.append(status)
            stop.set()

    run_local(shop.plan(), until=DEADLINE_S, observer=look, stop=stop)
    assert held, "not within the deadline"
    return held[0]


def checkpoints(status: Status) -> list[CheckpointReport]:
    return [report.checkpoints for report in status.stateful if report.checkpoints is not None]


def go_ahead(shop: Shop, is_enough: Callable[[int], bool] = lambda checkpoint: True) -> int:
    """A run that makes one checkpoint, and in which the sinks get on afterwards; returns the checkpoint's cut."""
    made: list[int] = []

    def holds(status: Status) -> bool:
        tried = {report.tried for report in checkpoints(status)}
        cuts = {sink.cut for sink in status.sinks}
        if not made and len(tried) == 1 and None not in tried:
            made.extend(number for number in tried if number is not None)
            shop.trade(30)
        return bool(made) and all(cut is not None and cut > made[0] for cut in cuts) and is_enough(made[0])

    until(shop, holds)
    return made[0]


def lost(shop: Shop) -> None:
    shutil.rmtree(shop.folder / "views.state")


def loads_nothing(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A run after which every sink is right, though no table was loaded again."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "raypipe"):
        run_local(shop.plan())
    assert LOADED_AGAIN not in caplog.text
    proved(shop)


@pytest.mark.parametrize("shards", [1, 3])
def test_lost_state_is_restored_and_carried_on(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    lost(shop)
    shop.trade(30)
    loads_nothing(shop, caplog)
    assert "restored from a checkpoint" in caplog.text
    assert "carried on by the log" in caplog.text
    shop.trade(30)
    loads_nothing(shop, caplog)


@pytest.mark.parametrize("shards", [1])
def test_a_run_tells_how_far_state_is_that_it_carries_on_and_can_be_stopped_meanwhile(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = Teller.due
    monkeypatch.setattr(Teller, "due", lambda self, now: self.carrying_on is not None or due(self, now))
    lost(shop)
    first = until(shop, lambda status: status.carrying_on is not None)
    assert first.carrying_on is not None
    assert first.carrying_on.cut < first.carrying_on.upto
    assert Status.from_json(first.to_json()) == first
    assert f"carrying state on: cut {first.carrying_on.cut} of {first.carrying_on.upto}" in one_line(first)
    loads_nothing(shop, caplog)


def test_it_is_restored_in_another_number_of_shards(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    lost(shop)
    shop.shards = 2
    shop.write()
    shop.trade(30)
    loads_nothing(shop, caplog)
    for _ in range(2):  # the first makes a checkpoint of its own, the second removes those of other layouts
        shop.trade(5)
        go_ahead(shop)
    assert {path.name for path in (shop.folder / "saved" / "views").iterdir()} == {"2"}
    lost(shop)
    loads_nothing(shop, caplog)


def test_a_shard_that_is_lost_alone_takes_the_others_back(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(shop.folder / "views.state" / str(shop.shards) / "0")
    shop.trade(30)
    loads_nothing(shop, caplog)


def test_damaged_state_is_restored_while_the_run_goes_on(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    for file in (shop.folder / "views.state").rglob("traces/*"):
        content = bytearray(file.read_bytes())
        for at in range(len(content) // 8, len(content) // 2, 64):
            content[at] ^= 0xFF
        file.write_bytes(content)
    shop.trade(30)
    loads_nothing(shop, caplog)


def test_a_checkpoint_that_is_damaged_is_passed_over_for_the_one_before(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.trade(10)
    newest = go_ahead(shop)
    damaged = list((shop.folder / "saved").rglob(f"checkpoints/{newest}.*.json"))
    assert len(damaged) == shop.shards
    for file in damaged:
        file.write_text("nonsense")
    lost(shop)
    shop.trade(30)
    loads_nothing(shop, caplog)


def test_an_object_store_that_is_away_stops_no_run(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(shop.folder / "saved")
    (shop.folder / "saved").write_text("no folder")
    shop.trade(30)
    until(shop, lambda status: any(report.trouble and report.tried for report in checkpoints(status)))
    loads_nothing(shop, caplog)


POINTS = [point for point in faults.POINTS if point.startswith(("state.checkpoint", "state.restored", "epoch.views"))]


@pytest.mark.chaos
@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_while_it_saves_or_restores_loses_nothing(
    point: str, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    lost(shop)
    shop.trade(20)
    assert shop.run(faults=f"{point}=kill@1").returncode == -signal.SIGKILL
    loads_nothing(shop, caplog)


@pytest.mark.chaos
def test_a_log_that_keeps_nothing_for_checkpoints_is_caught(
    shop: Shop, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    plan = shop.plan()
    request.addfinalizer(lambda: faults.arm(""))
    faults.arm("mutant.checkpoint_alone=skip")
    shop.trade(10)
    with closing(open_log(plan.log, pipeline=plan.pipeline)) as log:
        go_ahead(shop, lambda checkpoint: log.cut(checkpoint) is None)
    faults.arm("")
    lost(shop)
    shop.trade(20)
    with pytest.raises(AssertionError, match=LOADED_AGAIN):
        loads_nothing(shop, caplog)
    proved(shop)
