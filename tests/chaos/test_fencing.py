"""Two runs of one pipeline, and a paused run that wakes: only the newest may write."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

import pytest
from bank import LAKE
from scene import Scene, wait_until
from trials import FENCED_EXIT, paused_and_overtaken

pytestmark = pytest.mark.chaos


def test_an_older_run_is_fenced_says_so_and_exits_non_zero(scene: Scene) -> None:
    with scene.bank.busy():
        older = scene.start()
        wait_until(lambda: any(scene.cuts_of_sinks().values()), "the older run's first commit")
        newer = scene.start()
        output = scene.ended(older)
        assert older.returncode == FENCED_EXIT, output
        assert "later run" in output
        newer.send_signal(signal.SIGTERM)
        scene.ended(newer)
        scene.check()
    scene.settle()
    scene.check(caught_up=True)


@pytest.mark.parametrize("point", ["source.poll.after", "epoch.step.after", "sink.commit.before", "sink.commit.data"])
def test_a_paused_run_that_wakes_while_its_successor_works_writes_nothing_more(point: str, scene: Scene) -> None:
    def may_have_to_wait(scene: Scene) -> None:
        # A run that is paused may hold a lock, even the log's: then its successor has to wait until it wakes.
        with suppress(AssertionError):
            wait_until(lambda: scene.status_run() == 2, "the successor's start", deadline_s=5)

    paused_and_overtaken(scene, point, may_have_to_wait)


@pytest.mark.parametrize("point", ["sink.commit.before", "sink.commit.data"])
def test_a_paused_run_that_wakes_after_its_successor_has_finished_changes_nothing(
    point: str, make_scene: Callable[..., Scene]
) -> None:
    # A store without locks, and a run that is paused without one on log or source: only the generation protects.
    scene = make_scene(sinks=LAKE)
    scene.settle()
    scene.bank.burst(20)
    older = scene.start(faults=f"{point}=hold")
    scene.pause(older, point)
    scene.bank.burst(20)
    scene.settle()
    scene.check(caught_up=True)
    held = scene.cuts_of_sinks()
    scene.wake(older)
    output = scene.ended(older)
    assert older.returncode == FENCED_EXIT, output
    assert scene.cuts_of_sinks() == held
    scene.check(caught_up=True)
