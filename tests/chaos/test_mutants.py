"""Protocols with one step left out: each must be caught by the same checks that the real ones pass."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from scene import Scene, wait_until

pytestmark = pytest.mark.chaos

FENCED_EXIT = 3


def crash(scene: Scene, faults: str) -> None:
    """A run with a mutant that is killed at a point, then a healthy run to the end, then the check."""
    scene.bank.burst(30)
    with scene.bank.busy():
        process = scene.start(faults=faults)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, output
    assert len(scene.fired_points()) == len(faults.split(",")), "a fault that did not fire counts as not run"
    scene.check()
    scene.settle()
    scene.check(caught_up=True)


@pytest.mark.parametrize(
    "faults",
    [
        "mutant.position_before_data=skip,log.append.after=kill@3",
        "mutant.cut_before_data=skip,sink.commit.data=kill@4",
    ],
)
def test_a_protocol_that_commits_in_the_wrong_order_is_caught(faults: str, tmp_path: Path, seed: int) -> None:
    scene = Scene(tmp_path, seed)
    with pytest.raises(AssertionError, match=r"missing|different|extra|Torn|no transaction"):
        crash(scene, faults)


def test_a_reader_that_acknowledges_before_the_log_is_durable_is_caught(tmp_path: Path, seed: int) -> None:
    scene = Scene(tmp_path, seed)
    with pytest.raises(AssertionError, match=r"missing|different|extra|cannot|exit 4"):
        crash(scene, "mutant.acknowledge_early=skip,log.commit.before=kill@4")


def test_a_log_that_cuts_inside_a_transaction_is_caught(tmp_path: Path, seed: int) -> None:
    scene = Scene(tmp_path, seed, limits={"poll_bytes": 65536})
    scene.settle()
    scene.bank.burst(1, moves=3000)  # one transaction that spans many pieces
    process = scene.start(faults="mutant.torn_cut=skip,sink.commit.after=kill@3")
    process.communicate(timeout=60)
    assert "mutant.torn_cut" in scene.fired_points()
    with pytest.raises(AssertionError, match="no transaction"):
        scene.check()


def forget(scene: Scene) -> None:
    """A run whose log forgets what a sink has not committed is killed; a healthy one then goes on."""
    with scene.bank.busy():
        process = scene.start(faults="mutant.retain_early=skip,log.retain.after=kill@1")
        process.communicate(timeout=60)
    assert len(scene.fired_points()) == 2
    scene.bank.burst(5)
    scene.settle()
    scene.check(caught_up=True)


def test_a_log_that_forgets_what_a_sink_has_not_committed_is_caught(tmp_path: Path, seed: int) -> None:
    scene = Scene(tmp_path, seed)
    scene.settle()
    with pytest.raises(AssertionError, match=r"exit|missing|different|extra"):
        forget(scene)


def outlive(scene: Scene) -> None:
    """A run whose stores do not fence is paused before a commit and wakes after its successor has gone on."""
    older = scene.start(faults="mutant.no_fence=skip,sink.commit.before=stop@1")
    wait_until(lambda: "sink.commit.before" in scene.fired_points(), "the older run's pause")
    scene.bank.burst(20)
    newer = scene.start()
    try:
        wait_until(lambda: scene.status_run() == 3, "the successor's start")
        older.send_signal(signal.SIGCONT)
        older.communicate(timeout=60)
        assert older.returncode == FENCED_EXIT, f"exit {older.returncode}"
        scene.check()
    finally:
        for process in (older, newer):
            if process.poll() is None:
                scene.kill(process)


def test_a_store_that_does_not_fence_is_caught(tmp_path: Path, seed: int) -> None:
    scene = Scene(tmp_path, seed)
    scene.settle()
    scene.bank.burst(20)
    with pytest.raises(AssertionError, match=r"exit|missing|different|extra"):
        outlive(scene)
