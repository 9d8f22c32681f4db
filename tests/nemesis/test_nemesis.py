"""Every fault that may come between PostgreSQL and Kafka, in any order: each change is in the log once and in order.

``RAYPIPE_NEMESIS_S`` makes the run last so many seconds, instead of once through all faults.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from anomalies import Kind
from lab import STOPPED, Arena, Lab, ReaderProcess, opened_lab, wrong
from misfortunes import FAULTS
from servers import missing_skips

from cluster.services.home import Home

LASTS_S = float(os.environ.get("RAYPIPE_NEMESIS_S", "0"))
# For a history that is broken, so that what is missing does not come.
BROKEN_WITHIN_S = 4.0
# What takes longer than this is told with what the reader and the followers said meanwhile.
LONG_S = 20.0

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300 + 2 * LASTS_S)]


@pytest.fixture(scope="module")
def lab(services_home: Home) -> Iterator[Lab]:
    with missing_skips(), opened_lab(services_home) as opened:
        yield opened


@pytest.fixture
def arena(lab: Lab, tmp_path: Path, seed: int) -> Iterator[Arena]:
    arena = Arena(lab, tmp_path, seed)
    try:
        yield arena
    finally:
        arena.close()


def test_whatever_happens_each_change_is_in_the_log_once_and_in_order(arena: Arena, seed: int) -> None:
    chance, fired, began = random.Random(seed), Counter[str](), time.monotonic()
    print(f"seed {seed}")
    while not fired or time.monotonic() - began < LASTS_S:
        for fault in chance.sample(FAULTS, len(FAULTS)):
            at = time.monotonic() - began
            try:
                proof = fault(arena, chance)
                fired[fault.__name__] += 1
                arena.await_progress()
            except AssertionError:
                print(f"{at:6.1f} s: {fault.__name__}", *arena.told()[-20:], sep="\n")
                raise
            found = arena.check()
            took = time.monotonic() - began - at
            print(f"{at:6.1f} s, {took:4.1f} s: {fault.__name__}, {proof}", flush=True)
            if took > LONG_S:
                print(*arena.told()[-10:], sep="\n")
            assert wrong(found) == {}, (fault.__name__, [follower.failure for follower in arena.followers])
    assert wrong(arena.whole_history()) == {}
    assert set(fired) == {fault.__name__ for fault in FAULTS}
    print(f"{len(arena.journal.writes)} transactions, {Counter(each.outcome.value for each in arena.journal.writes)}")
    print({follower.name: sum(len(poll.records) for poll in follower.polls) for follower in arena.followers}, fired)


# Protocols with a step left out: the same checks must find them out.


def replace_reader(arena: Arena, faults: str, mutant: str = "") -> ReaderProcess:
    """The reader at work makes way for one with a mutant."""
    arena.reader.kill()
    return arena.start_reader(faults, mutant)


def found_by(arena: Arena, *wanted: Kind) -> set[Kind]:
    found = arena.check(BROKEN_WITHIN_S, wanted)
    print(wrong(found), [follower.failure for follower in arena.followers], arena.reader.said[-2:])
    return {anomaly.kind for anomaly in found}


def test_a_reader_that_acknowledges_before_the_log_has_it_is_caught(arena: Arena) -> None:
    doomed = replace_reader(arena, "mutant.acknowledge_early=skip,log.commit.before=kill@8")
    assert doomed.await_end() == -signal.SIGKILL
    successor = arena.start_reader()
    assert successor.await_end() == STOPPED, "it sees that the slot is ahead of the log"
    assert found_by(arena, Kind.UNSEEN, Kind.LOST_ROW) >= {Kind.UNSEEN, Kind.LOST_ROW}


def test_a_log_that_moves_its_position_before_its_rows_is_caught(arena: Arena) -> None:
    doomed = replace_reader(arena, "mutant.position_before_data=skip,log.commit.before=kill@8")
    assert doomed.await_end() == -signal.SIGKILL
    arena.start_reader()
    arena.await_progress()
    assert Kind.LOST_WRITE in found_by(arena, Kind.LOST_WRITE)


def test_a_log_that_does_not_fence_is_caught(arena: Arena) -> None:
    paused = replace_reader(arena, "mutant.no_fence=skip,source.poll.after=stop@8")
    paused.await_fault("source.poll.after")
    arena.start_reader()
    arena.await_progress()
    arena.await_progress()
    paused.signal(signal.SIGCONT)
    arena.await_progress()
    assert Kind.DUPLICATE in found_by(arena, Kind.DUPLICATE)


def test_a_writer_that_repeats_a_commit_whose_outcome_it_does_not_know_is_caught(arena: Arena) -> None:
    blind = replace_reader(arena, "log.commit.after=lose@8", mutant="blind")
    blind.await_state("blind")
    assert Kind.DUPLICATE in found_by(arena, Kind.DUPLICATE)
