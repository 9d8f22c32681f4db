"""Two runs of one pipeline, and a paused run that wakes: only the newest may write."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from scene import Scene, wait_until

pytestmark = pytest.mark.chaos

FENCED_EXIT = 3


def test_an_older_run_is_fenced_says_so_and_exits_non_zero(tmp_path: Path, seed: int) -> None:
    scene = Scene(tmp_path, seed)
    with scene.bank.busy():
        older = scene.start()
        wait_until(lambda: any(scene.cuts_of_sinks().values()), "the older run's first commit")
        newer = scene.start()
        output, _ = older.communicate(timeout=60)
        assert older.returncode == FENCED_EXIT, output
        assert "later run" in output
        newer.send_signal(signal.SIGTERM)
        newer.communicate(timeout=20)
        scene.check()
    scene.settle()
    scene.check(caught_up=True)


@pytest.mark.parametrize("point", ["log.commit.before", "sink.commit.before", "sink.commit.data", "epoch.step.after"])
def test_a_run_paused_inside_a_protocol_that_wakes_after_its_successor_started_writes_nothing(
    point: str, tmp_path: Path, seed: int
) -> None:
    scene = Scene(tmp_path, seed)
    scene.bank.burst(20)
    older = scene.start(faults=f"{point}=stop@2")
    with scene.bank.busy():
        wait_until(lambda: scene.fired_points() == {point: 1}, "the older run's pause")
    # A paused run may hold the lock of a store, as a real one would: the successor waits for it, or gets through.
    newer = scene.start(until="forever")
    with scene.bank.busy():
        wait_until(lambda: scene.status_run() == 2, "the successor's start")
        older.send_signal(signal.SIGCONT)
        output, _ = older.communicate(timeout=60)
    assert older.returncode == FENCED_EXIT, output
    newer.send_signal(signal.SIGTERM)
    newer.communicate(timeout=20)
    scene.check()
    scene.settle()
    scene.check(caught_up=True)
