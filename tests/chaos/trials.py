"""What a run is put through, whichever log it has."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest
from scene import Scene, wait_until

FENCED_EXIT = 3


def killed_at(scene: Scene, point: str, seed: int, tables: int) -> None:
    """A run is killed at a point, the first or a later time it comes there; another one finishes its work."""
    nth = 1 if point.startswith("log.retain") else random.Random(seed).randint(1, 4)
    with scene.bank.busy():
        process = scene.start(faults=f"{point}=kill@{nth}")
        output = scene.ended(process)
        assert process.returncode == -signal.SIGKILL, output
        assert scene.fired_points() == {point: 1}
        scene.check()
    scene.settle()
    assert scene.check(caught_up=True) == tables


def successor_works(scene: Scene) -> None:
    """Waits until the second run has told that it is at work."""
    wait_until(lambda: scene.status_run() == 2, "the successor's start")


def paused_and_overtaken(scene: Scene, point: str, await_successor: Callable[[Scene], None]) -> None:
    """A run is paused at a point, and must write nothing more when it wakes behind a successor."""
    scene.bank.burst(20)
    older = scene.start(faults=f"{point}=stop@2")
    with scene.bank.busy():
        wait_until(lambda: scene.fired_points() == {point: 1}, "the older run's pause")
        newer = scene.start()
        await_successor(scene)
        older.send_signal(signal.SIGCONT)
        output = scene.ended(older)
    assert older.returncode == FENCED_EXIT, output
    newer.send_signal(signal.SIGTERM)
    scene.ended(newer)
    scene.check()
    scene.settle()
    scene.check(caught_up=True)


def cut_inside_a_transaction(scene: Scene) -> None:
    """A log that cuts where it must not; the scene's ``poll_bytes`` is far smaller than the transaction."""
    scene.settle()
    scene.bank.burst(1, moves=3000)  # one transaction that spans many pieces
    # The reader rests at its second piece, so that a sink takes what is there of the transaction however slow it is.
    process = scene.start(faults="mutant.torn_cut=skip,log.commit.after=delay:50@2,sink.commit.after=kill")
    scene.ended(process)
    assert scene.fired_points().keys() == {"mutant.torn_cut", "log.commit.after", "sink.commit.after"}
    with pytest.raises(AssertionError, match="no transaction"):
        scene.check()
