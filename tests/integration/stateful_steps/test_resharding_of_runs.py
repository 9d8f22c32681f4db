"""The number of shards of the state changes while a run is at work: it goes on, and every sink stays right."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from resharding import AtWork, answered, asked, eventually
from shop_of_views import Shop
from test_stateful_pipelines import proved

from raypipe import faults
from raypipe.cli.app import main
from raypipe.engine.reshard import RESHARD_REQUEST_NOTE, Progress
from raypipe.engine.status import STATUS_NOTE, Status
from raypipe.local.run import run_local
from raypipe.log import open_log

DEADLINE_S = 120.0
LOADED_AGAIN = "will be loaded again"


@pytest.fixture
def shop(tmp_path: Path, seed: int) -> Shop:
    made = Shop(tmp_path, seed)
    made.trade(80)
    return made


@pytest.fixture
def fired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where failpoints that are armed in this process say that they fired."""
    path = tmp_path / "fired"
    monkeypatch.setenv("RAYPIPE_FAULTS_FIRED", str(path))
    yield path
    faults.arm("")


def layouts(shop: Shop) -> set[str]:
    return {path.name for path in (shop.folder / "views.state").iterdir()}


def let_go(fired: Path) -> None:
    fired.with_name(f"{fired.name}.go").touch()


def command(capsys: pytest.CaptureFixture[str], shop: Shop, *words: str) -> str:
    """What a command says, in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words[:1], str(shop.folder / "pipeline.yaml"), *words[1:]])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    return told.out


def test_epochs_go_on_while_the_state_is_cut_and_no_table_is_loaded_again(
    shop: Shop, fired: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "raypipe"), AtWork(shop.plan(), run_local) as run:
        run.carried(lambda: shop.trade(30))
        caplog.clear()  # the first load
        faults.arm("reshard.listed=hold@1")
        request = asked(shop.plan(), 3, run.told[-1].run)
        run.until(lambda status: any(report.reshard for report in status.stateful), "the cutting")
        for _ in range(2):
            run.carried(lambda: shop.trade(30))
        proved(shop)
        assert layouts(shop) == {"1", "3.prepared"}
        assert "is cut for 3 shards" in command(capsys, shop, "status")
        let_go(fired)
        answer = answered(shop.plan(), request)
        assert (answer.progress, answer.shards) == (Progress.DONE, 3)
        assert answer.pause_s > 0
        run.carried(lambda: shop.trade(30))
        shop.shards = 2
        shop.write()
        assert "in 2 shards now" in command(capsys, shop, "reshard")
        assert "in 2 shards already" in command(capsys, shop, "reshard")
        assert "state in 2 shards" in command(capsys, shop, "status")
        run.carried(lambda: shop.trade(30))
        proved(shop)
        assert run.told[-1].state_shards == len(run.told[-1].stateful) == 2
        assert len({status.run for status in run.told}) == 1
    assert LOADED_AGAIN not in caplog.text
    assert layouts(shop) == {"2"}
    assert json.loads(command(capsys, shop, "reshard", "--json"))["shards"] is None  # no run is at work


def test_who_asks_for_another_number_meanwhile_gets_that(shop: Shop, fired: Path) -> None:
    with AtWork(shop.plan(), run_local) as run:
        run.carried(lambda: shop.trade(30))
        faults.arm("reshard.listed=hold@1")
        asked(shop.plan(), 3, run.told[-1].run)
        run.until(lambda status: any(report.reshard for report in status.stateful), "the cutting")
        request = asked(shop.plan(), 2, run.told[-1].run)
        let_go(fired)
        answer = answered(shop.plan(), request)
        assert (answer.progress, answer.shards) == (Progress.DONE, 2)
        run.carried(lambda: shop.trade(30))
        proved(shop)
        assert run.told[-1].state_shards == len(run.told[-1].stateful) == 2
    assert layouts(shop) == {"2"}


def test_what_was_cut_is_removed_when_nobody_asks_any_more(shop: Shop) -> None:
    (shop.folder / "views.state" / "5.prepared" / "1.0").mkdir(parents=True)
    (shop.folder / "views.state" / "5.prepared" / "2.1").mkdir()
    run_local(shop.plan())
    assert layouts(shop) == {"1"}


def test_what_fails_or_was_asked_of_an_earlier_run_leaves_the_shards_as_they_are(shop: Shop, fired: Path) -> None:
    plan = shop.plan()
    with AtWork(plan, run_local) as run, closing(open_log(plan.log, pipeline=plan.pipeline)) as log:
        asked(plan, 3, run.told[-1].run - 1)
        eventually(lambda: None if log.notes(RESHARD_REQUEST_NOTE) else True, "the removal of the request")
        run.carried(lambda: shop.trade(30))
        assert run.told[-1].state_shards == 1
        faults.arm("shards.cut=raise@1")
        answer = run.reshard(3)
        assert (answer.progress, answer.shards) == (Progress.FAILED, 1)
        assert "shards.cut fired" in answer.error
        run.carried(lambda: shop.trade(30))
        assert run.reshard(3).progress is Progress.DONE
        run.carried(lambda: shop.trade(30))
        proved(shop)


def test_the_new_shards_have_checkpoints_of_their_own(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.checkpoints = "saved"
    shop.write()

    def saved(status: Status) -> bool:
        told = [report.checkpoints for report in status.stateful if report.checkpoints is not None]
        return len(told) == status.state_shards and all(each.tried and each.versions for each in told)

    with AtWork(shop.plan(), run_local) as run:
        run.until(saved, "a checkpoint")
        run.carried(lambda: shop.trade(30))
        assert run.reshard(2).progress is Progress.DONE
        run.carried(lambda: shop.trade(30))
        run.until(lambda status: status.state_shards == 2 and saved(status), "a checkpoint in two shards")
        run.carried(lambda: shop.trade(30))
        proved(shop)
    shutil.rmtree(shop.folder / "views.state")
    shop.shards = 2
    shop.write()
    shop.trade(30)
    with caplog.at_level(logging.INFO, "raypipe"):
        run_local(shop.plan())
    assert "restored from a checkpoint" in caplog.text
    assert LOADED_AGAIN not in caplog.text
    proved(shop)


# Where it is killed, and what its file says when the next one begins: what was asked for, or what it had.
KILLS = [("reshard.packed", 3), ("reshard.listed", 3), ("reshard.left", 3), ("reshard.switched", 2)]


@pytest.mark.chaos
@pytest.mark.parametrize(("point", "shards"), KILLS)
def test_a_run_killed_while_it_is_resharded_loses_nothing(
    point: str, shards: int, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.shards = 2
    shop.write()
    plan = shop.plan()
    run = subprocess.Popen(
        [sys.executable, "-m", "raypipe", "run", str(shop.folder / "pipeline.yaml"), "--local"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAYPIPE_FAULTS": f"{point}=kill@1"},
    )
    try:
        with closing(open_log(plan.log, pipeline=plan.pipeline)) as log:

            def at_work() -> Status | None:
                text = log.notes(STATUS_NOTE).get(STATUS_NOTE)
                status = Status.from_json(text) if text is not None else None
                return status if status is not None and status.epochs else None

            status = eventually(at_work, "the run")
        shop.trade(30)
        asked(plan, 3, status.run)
        output, _ = run.communicate(timeout=DEADLINE_S)
        assert run.returncode == -signal.SIGKILL, output
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()
    shop.shards = shards
    shop.write()
    shop.trade(30)
    with caplog.at_level(logging.INFO, "raypipe"):
        run_local(shop.plan())
    assert LOADED_AGAIN not in caplog.text
    assert layouts(shop) == {str(shop.shards)}
    proved(shop)


@pytest.mark.chaos
def test_new_shards_without_what_came_after_the_first_round_are_caught(shop: Shop, fired: Path) -> None:
    with AtWork(shop.plan(), run_local) as run:
        run.carried(lambda: shop.trade(30))
        faults.arm("reshard.listed=hold@1,mutant.reshard_forgets=skip")
        request = asked(shop.plan(), 3, run.told[-1].run)
        run.until(lambda status: any(report.reshard for report in status.stateful), "the cutting")
        eventually(
            lambda: True if fired.exists() and "reshard.listed" in fired.read_text() else None, "the first round"
        )
        run.carried(lambda: shop.execute("INSERT INTO notes VALUES ('x')"))
        let_go(fired)
        assert answered(shop.plan(), request).progress is Progress.DONE
        run.carried(lambda: shop.execute("INSERT INTO notes VALUES ('x')"))
        with pytest.raises(AssertionError, match="words"):
            proved(shop)
