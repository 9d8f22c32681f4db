"""What can happen to an arena, by name: each fault happens, ends again, and says what proves that it did."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable

from confluent_kafka.admin import AdminClient
from lab import FENCED, Arena, wait_until
from postgres_database import run
from ways import Way

from cluster.services.kafka.broker import KafkaBroker
from raypipe.log.kafka.names import ControlTopics

Fault = Callable[[Arena, random.Random], str]

# As ``cluster_settings`` has it.
TRANSACTION_PARTITIONS = 4
POINTS = (
    "source.poll.after",
    "log.append.after",
    "log.commit.before",
    "log.commit.after",
    "source.acknowledge.before",
    "source.acknowledge.after",
)


def _last(seconds: float) -> None:
    """How long a fault lasts is part of what is chosen by chance."""
    threading.Event().wait(seconds)


# Ways


def _ended(arena: Arena, what: str, end: Callable[[], int]) -> str:
    ended: list[int] = []

    def some() -> bool:
        reader = arena.reader
        assert reader.process.poll() is None, f"the reader ended with {reader.process.returncode}: {reader.said[-5:]}"
        ended.append(end())
        return ended[-1] > 0

    wait_until(some, f"a connection to {what}")
    return f"{ended[-1]} connections"


def postgres_cut(arena: Arena, chance: random.Random) -> str:
    return _ended(arena, "cut", arena.lab.to_postgres.cut)


def postgres_reset(arena: Arena, chance: random.Random) -> str:
    return _ended(arena, "reset", arena.lab.to_postgres.reset)


def kafka_cut(arena: Arena, chance: random.Random) -> str:
    return _ended(arena, "cut", _of_some(arena, chance, Way.cut))


def kafka_reset(arena: Arena, chance: random.Random) -> str:
    return _ended(arena, "reset", _of_some(arena, chance, Way.reset))


def _of_some(arena: Arena, chance: random.Random, end: Callable[[Way], int]) -> Callable[[], int]:
    """Of one broker or of all; also of all if nobody is connected to the one.

    A broker that was killed leads nothing for minutes, and nobody need connect to it.
    """
    ways, deadline = arena.lab.to_brokers, time.monotonic() + 1
    chosen = ways if chance.random() < 0.5 else tuple(chance.sample(ways, 1))
    return lambda: sum(end(way) for way in (ways if time.monotonic() > deadline else chosen))


def postgres_half_open(arena: Arena, chance: random.Random) -> str:
    """Nothing passes for a while; then either all of it does, or the connections turn out to be dead."""
    way = arena.lab.to_postgres
    before = way.withheld
    way.hang()
    try:
        wait_until(lambda: way.withheld > before, "something to withhold")
        _last(chance.uniform(0.2, 2.0))
        if chance.random() < 0.5:
            way.reset()
    finally:
        way.heal()
    return f"{way.withheld - before} bytes withheld"


def kafka_half_open(arena: Arena, chance: random.Random) -> str:
    """Of one broker or of all; also of all if the one has nothing to say to anybody just now."""
    ways = arena.lab.to_brokers
    before, deadline = sum(way.withheld for way in ways), time.monotonic() + 1
    hanging = ways if chance.random() < 0.5 else tuple(chance.sample(ways, 1))

    def some() -> bool:
        for way in ways if time.monotonic() > deadline else hanging:
            way.hang()
        return sum(way.withheld for way in ways) > before

    try:
        wait_until(some, "something to withhold")
        _last(chance.uniform(0.2, 2.0))
        if chance.random() < 0.5:
            for way in ways:
                way.reset()
    finally:
        for way in ways:
            way.heal()
    return f"{sum(way.withheld for way in ways) - before} bytes withheld"


def postgres_slow(arena: Arena, chance: random.Random) -> str:
    way = arena.lab.to_postgres
    before = way.slowed
    way.slow(chance.choice([5_000, 50_000]))
    wait_until(lambda: way.slowed > before, "something that is slow")
    _last(chance.uniform(0.5, 2.0))
    way.heal()
    return f"{way.slowed - before} bytes slowed"


def kafka_slow(arena: Arena, chance: random.Random) -> str:
    ways = arena.lab.to_brokers
    before = sum(way.slowed for way in ways)
    for way in ways:
        way.slow(chance.choice([5_000, 50_000]))
    wait_until(lambda: sum(way.slowed for way in ways) > before, "something that is slow")
    _last(chance.uniform(0.5, 2.0))
    for way in ways:
        way.heal()
    return f"{sum(way.slowed for way in ways) - before} bytes slowed"


# Servers


def walsender_killed(arena: Arena, chance: random.Random) -> str:
    slot = f"s_{arena.database}"
    ended: list[object] = []

    def end() -> bool:
        sql = f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        ended.extend(run(arena.lab.postgres.url, sql))
        return bool(ended)

    wait_until(end, "a walsender")
    return "1 walsender"


def postgres_restarted(arena: Arena, chance: random.Random) -> str:
    before = arena.lab.postgres.pid
    arena.lab.postgres.restart()
    assert arena.lab.postgres.pid not in (None, before)
    return "restarted"


def postgres_crashed(arena: Arena, chance: random.Random) -> str:
    before = arena.lab.postgres.pid
    arena.lab.postgres.crash()
    arena.lab.postgres.start()
    assert arena.lab.postgres.pid not in (None, before)
    return "stopped -m immediate"


def _down_and_up(arena: Arena, chance: random.Random, brokers: list[KafkaBroker]) -> None:
    """Kills brokers and starts them again; a single one comes back while other things happen already."""
    arena.lab.kafka.start()
    for broker in arena.lab.kafka.brokers:
        broker.await_ready()
    for broker in brokers:
        broker.kill()
    assert all(broker.pid is None for broker in brokers)
    if len(brokers) == 1 and chance.random() < 0.7:
        arena.await_progress()  # two of three are enough
    for broker in brokers:
        broker.launch()


def broker_killed(arena: Arena, chance: random.Random) -> str:
    broker = chance.choice(arena.lab.kafka.brokers)
    _down_and_up(arena, chance, [broker])
    return f"broker {broker.node}"


def coordinator_killed(arena: Arena, chance: random.Random) -> str:
    """The broker that coordinates the transactions of the arena's writer."""
    admin = AdminClient({"bootstrap.servers": arena.lab.kafka.bootstrap})
    partition = _java_hash(ControlTopics(arena.pipeline).transactional_id("shop")) % TRANSACTION_PARTITIONS
    topic = admin.list_topics("__transaction_state", timeout=60).topics["__transaction_state"]
    broker = next(one for one in arena.lab.kafka.brokers if one.node == topic.partitions[partition].leader)
    _down_and_up(arena, chance, [broker])
    return f"broker {broker.node}"


def _java_hash(text: str) -> int:
    """As Kafka chooses the partition of ``__transaction_state``."""
    number = 0
    for letter in text:
        number = (31 * number + ord(letter)) & 0xFFFFFFFF
    return number & 0x7FFFFFFF


def all_brokers_killed(arena: Arena, chance: random.Random) -> str:
    _down_and_up(arena, chance, arena.lab.kafka.brokers)
    return "3 brokers"


# Readers


def reader_killed(arena: Arena, chance: random.Random) -> str:
    """At a moment of its own, or at a step of the protocol."""
    if chance.random() < 0.5:
        arena.reader.signal(signal.SIGKILL)
        assert arena.reader.await_end() == -signal.SIGKILL
        arena.start_reader()
        return "at a moment"
    point = chance.choice(POINTS)
    older, doomed = arena.reader, arena.start_reader(f"{point}=kill@{chance.randint(1, 8)}")
    assert doomed.await_end() == -signal.SIGKILL
    assert older.await_end() == FENCED
    arena.start_reader()
    return f"at {point}"


def reader_paused(arena: Arena, chance: random.Random) -> str:
    """Stopped at a step of the protocol, and woken when its successor is at work."""
    point = chance.choice(POINTS)
    older, paused = arena.reader, arena.start_reader(f"{point}=stop@{chance.randint(1, 8)}")
    paused.await_fault(point)
    assert older.await_end() == FENCED
    arena.start_reader()
    arena.await_progress()
    paused.signal(signal.SIGCONT)
    assert paused.await_end() == FENCED, paused.said[-5:]
    return f"at {point}"


def two_readers(arena: Arena, chance: random.Random) -> str:
    """A second one is started beside the first, which is at work."""
    older = arena.reader
    arena.await_progress()
    arena.start_reader()
    assert older.await_end() == FENCED, older.said[-5:]
    return "the first was fenced"


FAULTS: tuple[Fault, ...] = (
    postgres_cut,
    postgres_reset,
    postgres_half_open,
    postgres_slow,
    kafka_cut,
    kafka_reset,
    kafka_half_open,
    kafka_slow,
    walsender_killed,
    postgres_restarted,
    postgres_crashed,
    broker_killed,
    coordinator_killed,
    all_brokers_killed,
    reader_killed,
    reader_paused,
    two_readers,
)
