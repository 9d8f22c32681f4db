"""Protocols with one step left out: each must be caught by the same checks that the real ones pass."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from bank import LAKE
from scene import Scene
from trials import cut_inside_a_transaction

pytestmark = pytest.mark.chaos

WRONG = r"missing|extra|different|no transaction|twice|behind|exit 4|exit 1"


def crash_and_resume(scene: Scene, faults: str) -> None:
    """A run with a mutant is killed at a point, a healthy run goes on to the end, and everything is checked."""
    scene.settle()
    scene.bank.burst(30)
    process = scene.start(faults=faults)
    output = scene.ended(process)
    assert process.returncode == -signal.SIGKILL, f"not killed: {output}"
    fired = scene.fired_points().keys()
    assert len(fired) == len(faults.split(",")), f"a fault that did not fire counts as not run: {fired}"
    scene.check()
    scene.settle()
    scene.check(caught_up=True)


@pytest.mark.parametrize(
    "faults",
    [
        "mutant.acknowledge_early=skip,log.commit.before=kill@1",
        "mutant.position_before_data=skip,log.commit.before=kill@1",
        "mutant.cut_before_data=skip,sink.commit.data=kill@1",
    ],
)
def test_a_protocol_that_does_its_steps_in_the_wrong_order_is_caught(faults: str, scene: Scene) -> None:
    with pytest.raises(AssertionError, match=WRONG):
        crash_and_resume(scene, faults)


@pytest.mark.parametrize("point", ["log.commit.before", "sink.commit.data"])
def test_the_same_kills_without_a_mutant_pass(point: str, scene: Scene) -> None:
    crash_and_resume(scene, f"{point}=kill@1")


def test_a_log_that_cuts_inside_a_transaction_is_caught(make_scene: Callable[..., Scene]) -> None:
    cut_inside_a_transaction(make_scene(limits={"poll_bytes": 65536}))


def forget(scene: Scene) -> None:
    """The log forgets what the sinks, held up in a commit, have not got; then all dies, and a healthy run goes on."""
    faults = "mutant.retain_early=skip,sink.commit.before=delay:2@1,log.retain.after=kill@2"
    with scene.bank.busy():
        process = scene.start(faults=faults)
        output = scene.ended(process)
    assert process.returncode == -signal.SIGKILL, f"not killed: {output}"
    assert len(scene.fired_points()) == 3
    scene.settle()
    scene.check(caught_up=True)


def test_a_log_that_forgets_what_a_sink_has_not_committed_is_caught(scene: Scene) -> None:
    scene.settle()
    scene.bank.burst(20)
    with pytest.raises(AssertionError, match=WRONG):
        forget(scene)


def outlive(scene: Scene, point: str) -> None:
    """A run whose stores do not fence is paused, and wakes when its successor has finished."""
    older = scene.start(faults=f"mutant.no_fence=skip,{point}=hold")
    scene.pause(older, point)
    scene.bank.burst(20)
    scene.settle()
    scene.check(caught_up=True)
    scene.wake(older)
    output = scene.ended(older)
    assert "mutant.no_fence" in scene.fired_points(), f"a fault that did not fire counts as not run: {output}"
    scene.check(caught_up=True)


def test_a_store_that_does_not_fence_is_caught(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(sinks=LAKE)
    scene.settle()
    scene.bank.burst(20)
    with pytest.raises(AssertionError, match=WRONG):
        outlive(scene, "sink.commit.data")
