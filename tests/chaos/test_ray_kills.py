"""The same promises on Ray: each kind of actor, the driver and all of Ray are killed under load."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial

import psutil
import pytest
from bank import ALL_SINKS, VIEW_SINK, VIEWS
from scene import Scene, wait_until
from test_kills import TABLES as STATELESS

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]

# Ray starts some thirty processes; beside other work that has taken more than a minute.
DEADLINE_S = 180.0

ACTORS = ("ReaderActor", "ConsumerActor", "StateActor", "SinkActor", "CoordinatorActor")
TABLES = STATELESS + 2


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    """A scene with all kinds of sinks, and stateful steps whose state is in shards."""
    return make_scene(sinks=ALL_SINKS + VIEW_SINK, steps=VIEWS, limits={"state_shards": 2})


def actor_pids(run: subprocess.Popen[str], kind: str) -> list[int]:
    """Processes of this run's Ray that host an actor of a kind."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if f"ray::{kind}" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_every_kind_of_actor_may_die_under_load_and_the_run_goes_on(scene: Scene) -> None:
    with scene.bank.busy(per_second=50):
        run = scene.start(local=())
        try:
            for kind in ACTORS:
                wait_until(lambda kind=kind: bool(actor_pids(run, kind)), f"a {kind}", DEADLINE_S)
                before = max((cut or 0 for cut in scene.cuts_of_sinks().values()), default=0)
                wait_until(
                    partial(scene.all_beyond, before),
                    f"progress before the {kind} is killed",
                    DEADLINE_S,
                )
                victims = actor_pids(run, kind)
                assert victims, f"no {kind} to kill"
                for pid in victims[: 1 if kind == "StateActor" else None]:  # the other shard lives on
                    psutil.Process(pid).kill()
                after = max(cut or 0 for cut in scene.cuts_of_sinks().values())
                wait_until(
                    partial(scene.all_beyond, after),
                    f"recovery from the death of the {kind}",
                    DEADLINE_S,
                )
            assert run.poll() is None, "the run must survive its actors"
        finally:
            run.terminate()
            output = scene.ended(run, DEADLINE_S)
        assert run.returncode in (0, 143), output
    scene.settle()
    assert scene.check(caught_up=True) == TABLES


def test_the_driver_and_all_of_ray_may_die_and_the_next_run_resumes(scene: Scene) -> None:
    with scene.bank.busy(per_second=50):
        run = scene.start(local=())
        wait_until(scene.all_beyond, "the first commits", DEADLINE_S)
        whole = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
        for process in whole:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        scene.ended(run)
        scene.check()
    scene.settle()
    assert scene.check(caught_up=True) == TABLES
