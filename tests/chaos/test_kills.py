"""SIGKILL at every named point of every protocol and at random moments: nothing lost, doubled or torn."""

from __future__ import annotations

import random
import signal
import threading
from functools import partial

import pytest
from scene import Scene, wait_until
from trials import killed_at

from raypipe import faults

pytestmark = pytest.mark.chaos

# Every table of the pipeline file: warehouse 3, shards 2 x 2, lake 2; two more when equal cuts let shards be joined.
TABLES = 3 + 4 + 2
RANDOM_KILLS = 30


# Those of repairs, of the state and of its shards have their own tests: here nothing is repaired or remembered.
_ELSEWHERE = ("repair.", "state.", "shards.", "reshard.", "epoch.views.")
PASSED = [point for point in faults.POINTS if not point.startswith(_ELSEWHERE)]


@pytest.mark.parametrize("point", PASSED)
def test_a_run_killed_at_a_named_point_loses_doubles_and_tears_nothing(point: str, scene: Scene, seed: int) -> None:
    killed_at(scene, point, seed, TABLES)


def test_thirty_random_kills_under_load_leave_every_sink_exact_at_its_own_cut(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    reached: set[int | None] = set()
    with scene.bank.busy():
        for _ in range(RANDOM_KILLS):
            process = scene.start()
            if chance.random() < 0.7:
                wait_until(partial(progressed, scene, frozenset(reached)), "progress before the kill")
            threading.Event().wait(chance.uniform(0.0, 0.8))  # the moment of the kill is the random input
            scene.kill(process)
            scene.check()
            reached |= set(scene.cuts_of_sinks().values())
    assert len(reached) > RANDOM_KILLS / 3, "the runs hardly got anywhere between their kills"
    scene.settle()
    assert scene.check(caught_up=True) == TABLES


def progressed(scene: Scene, before: frozenset[int | None]) -> bool:
    """Whether some sink of the newest run holds a cut that no run held when it was killed."""
    return bool(set(scene.cuts_of_sinks().values()) - before - {None})


@pytest.mark.parametrize("action", ["raise", "lose"])
@pytest.mark.parametrize(
    "point",
    ["log.commit.after", "log.commit.before", "sink.commit.before", "sink.commit.data", "sink.commit.after"],
)
def test_a_lost_reply_or_a_passing_failure_is_read_back_not_repeated(point: str, action: str, scene: Scene) -> None:
    scene.bank.burst(30)
    scene.settle(faults=f"{point}={action}@1")
    assert scene.fired_points() == {point: 1}
    assert scene.check(caught_up=True) == TABLES
    scene.bank.burst(30)
    scene.settle()
    assert scene.check(caught_up=True) == TABLES


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_told_to_end_ends_cleanly_and_resumes(sent: signal.Signals, scene: Scene) -> None:
    with scene.bank.busy():
        process = scene.start()
        scene.bank.wait_for_capture()
        wait_until(lambda: any(scene.cuts_of_sinks().values()), "the first commit")
        process.send_signal(sent)
        output = scene.ended(process)
        assert process.returncode in (0, 130, 143), output
        scene.check()
    scene.settle()
    assert scene.check(caught_up=True) == TABLES
