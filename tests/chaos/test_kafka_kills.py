"""The promise with a log in Kafka: kills, lost replies, paused runs, and protocols with a step left out."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from functools import partial

import pytest
from bank import LAKE
from scene import Scene, wait_until
from test_kills import TABLES, progressed
from test_mutants import WRONG, crash_and_resume, forget, outlive
from trials import cut_inside_a_transaction, killed_at, paused_and_overtaken, successor_works

from cluster.services.kafka import KafkaCluster
from raypipe.errors import Corrupt

pytestmark = pytest.mark.chaos

POINTS = (
    "source.poll.after",
    "log.append.after",
    "log.commit.before",
    "log.commit.after",
    "source.acknowledge.before",
    "sink.commit.data",
    "sink.commit.after",
    "log.retain.before",
    "log.retain.after",
)
RANDOM_KILLS = 8


@pytest.fixture
def make_kafka_scene(make_scene: Callable[..., Scene], kafka: KafkaCluster) -> Callable[..., Scene]:
    """Makes a scene whose log is in Kafka, in two partitions for each table and one table as JSON."""
    name = f"bank{uuid.uuid4().hex[:10]}"
    return partial(make_scene, log=f"kafka://{kafka.bootstrap}?partitions=2&debezium=bank.transfers", name=name)


@pytest.fixture
def kafka_scene(make_kafka_scene: Callable[..., Scene]) -> Scene:
    return make_kafka_scene()


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_a_named_point_loses_doubles_and_tears_nothing(
    point: str, kafka_scene: Scene, seed: int
) -> None:
    killed_at(kafka_scene, point, seed, TABLES)


@pytest.mark.parametrize("action", ["raise", "lose"])
@pytest.mark.parametrize("point", ["log.commit.before", "log.commit.after"])
def test_a_lost_reply_or_a_passing_failure_is_read_back_not_repeated(
    point: str, action: str, kafka_scene: Scene
) -> None:
    kafka_scene.bank.burst(30)
    kafka_scene.settle(faults=f"{point}={action}@1")
    assert kafka_scene.fired_points() == {point: 1}
    assert kafka_scene.check(caught_up=True) == TABLES


def test_random_kills_under_load_leave_every_sink_exact_at_its_own_cut(kafka_scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    reached: set[int | None] = set()
    with kafka_scene.bank.busy():
        for _ in range(RANDOM_KILLS):
            process = kafka_scene.start()
            wait_until(partial(progressed, kafka_scene, frozenset(reached)), "progress before the kill")
            threading.Event().wait(chance.uniform(0.0, 0.8))  # the moment of the kill is the random input
            kafka_scene.kill(process)
            kafka_scene.check()
            reached |= set(kafka_scene.cuts_of_sinks().values())
    kafka_scene.settle()
    assert kafka_scene.check(caught_up=True) == TABLES


@pytest.mark.parametrize("point", ["source.poll.after", "log.commit.before", "sink.commit.before"])
def test_a_paused_run_that_wakes_while_its_successor_works_writes_nothing_more(point: str, kafka_scene: Scene) -> None:
    paused_and_overtaken(kafka_scene, point, successor_works)


@pytest.mark.parametrize("mutant", ["mutant.acknowledge_early", "mutant.position_before_data"])
def test_a_protocol_that_does_its_steps_in_the_wrong_order_is_caught(mutant: str, kafka_scene: Scene) -> None:
    with pytest.raises(AssertionError, match=WRONG):
        crash_and_resume(kafka_scene, f"{mutant}=skip,log.commit.before=kill@1")


def test_a_log_that_cuts_inside_a_transaction_is_caught(make_kafka_scene: Callable[..., Scene]) -> None:
    cut_inside_a_transaction(make_kafka_scene(limits={"poll_bytes": 65536}))


def test_a_log_that_forgets_what_a_sink_has_not_committed_is_caught(kafka_scene: Scene) -> None:
    kafka_scene.settle()
    kafka_scene.bank.burst(20)
    with pytest.raises(AssertionError, match=WRONG):
        forget(kafka_scene)


def test_a_store_that_does_not_fence_is_caught(make_kafka_scene: Callable[..., Scene]) -> None:
    scene = make_kafka_scene(sinks=LAKE)
    scene.settle()
    scene.bank.burst(20)
    # Either a sink shows it, or the log does first: two writers have given the same number to a commit.
    with pytest.raises((AssertionError, Corrupt), match=f"{WRONG}|others are gone"):
        outlive(scene, "sink.commit.data")
