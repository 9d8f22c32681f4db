"""A writer killed, paused or left without an answer at each step: every change is in the log once and in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_lab import DEADLINE_S, ids, new_pipeline, put, stored, wait_until

from cluster.services.kafka import KafkaCluster
from raypipe import faults
from raypipe.errors import Fenced, OutcomeUnknown, Unavailable
from raypipe.log.kafka import KafkaLog

WRITER = Path(__file__).with_name("kafka_writer.py")
TRANSACTIONS = 6
LOG_POINTS = [point for point in faults.POINTS if point.startswith(("log.append", "log.commit"))]


class Lab:
    """A log on the shared broker, and the writers at work on it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.pipeline = new_pipeline()
        self.fired = folder / "fired"
        self._writers: list[subprocess.Popen[str]] = []
        KafkaLog.create(url, self.pipeline).close()

    def writer(self, armed: str = "") -> subprocess.Popen[str]:
        environment = os.environ | {"RAYPIPE_FAULTS": armed, "RAYPIPE_FAULTS_FIRED": str(self.fired)}
        process = subprocess.Popen(
            [sys.executable, str(WRITER), self.url, self.pipeline, str(TRANSACTIONS)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._writers.append(process)
        return process

    def check_whole(self) -> None:
        """Everything is there once, in order, and no cut lies inside a transaction."""
        log = KafkaLog.open(self.url, self.pipeline)
        try:
            assert ids(stored(log)) == list(range(4 * TRANSACTIONS))
            held = None
            for cut in log.cuts():
                assert len(ids(stored(log, held, cut))) % 4 == 0, "a cut inside a transaction"
                held = cut
        finally:
            log.close()

    def close(self) -> None:
        for process in self._writers:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=DEADLINE_S)


@pytest.fixture(params=[1, 3], ids=["1 partition", "3 partitions"])
def lab(request: pytest.FixtureRequest, kafka: KafkaCluster, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(f"kafka://{kafka.bootstrap}?partitions={request.param}", tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("nth", [1, 6])
@pytest.mark.parametrize("point", LOG_POINTS)
def test_a_writer_killed_at_any_step_is_followed_by_one_that_loses_and_doubles_nothing(
    lab: Lab, point: str, nth: int
) -> None:
    killed = lab.writer(f"{point}=kill@{nth}")
    output, _ = killed.communicate(timeout=DEADLINE_S)
    assert killed.returncode == -signal.SIGKILL, output
    output, _ = (successor := lab.writer()).communicate(timeout=DEADLINE_S)
    assert successor.returncode == 0, output
    lab.check_whole()


@pytest.mark.parametrize("action", ["raise", "lose"])
@pytest.mark.parametrize("point", LOG_POINTS)
def test_a_step_that_fails_or_whose_reply_is_lost_is_read_back_and_never_repeated(
    lab: Lab, point: str, action: str
) -> None:
    output, _ = (writer := lab.writer(f"{point}={action}@3")).communicate(timeout=DEADLINE_S)
    assert writer.returncode == 0, output
    assert "again:" in output
    lab.check_whole()


@pytest.mark.parametrize("point", LOG_POINTS)
def test_a_paused_writer_that_wakes_after_its_successor_has_finished_is_fenced(lab: Lab, point: str) -> None:
    older = lab.writer(f"{point}=stop@3")
    wait_until(lab.fired.exists, "the older writer's pause")
    output, _ = (newer := lab.writer()).communicate(timeout=DEADLINE_S)
    assert newer.returncode == 0, output
    older.send_signal(signal.SIGCONT)
    output, _ = older.communicate(timeout=DEADLINE_S)
    assert older.returncode == 3, output
    assert "Fenced" in output
    lab.check_whole()


def test_a_position_that_was_asked_before_an_older_commit_came_through_is_not_gone_on_from(lab: Lab) -> None:
    older, newer = KafkaLog.open(lab.url, lab.pipeline), KafkaLog.open(lab.url, lab.pipeline)
    try:
        claim = older.claim(lab.pipeline)
        put(older, claim, "1", 1)
        assert newer.position("shop") == "1"
        put(older, claim, "2", 2)
        renewed = newer.renew(claim)
        with pytest.raises(OutcomeUnknown, match="still committing"):
            newer.begin("shop", renewed)
        assert newer.position("shop") == "2"
        put(newer, newer.renew(claim), "3", 3)
        assert ids(stored(newer)) == [1, 2, 3]
    finally:
        older.close()
        newer.close()


def test_a_commit_hidden_behind_the_open_transaction_of_another_instance_is_not_taken_for_lost(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    east, shop = KafkaLog.open(lab.url, lab.pipeline), KafkaLog.open(lab.url, lab.pipeline)
    again = KafkaLog.open(lab.url, lab.pipeline)
    try:
        claim = east.claim(lab.pipeline)
        put(shop, claim, "1", 1)
        stuck = east.begin("east", claim)
        # As far as commit goes before it commits: the record is in the cuts topic, and undecided.
        stuck._prepare("e1", True, ())
        with monkeypatch.context() as impatient:
            impatient.setattr("raypipe.log.kafka.follow.ANSWER_S", 1.0)
            with pytest.raises(OutcomeUnknown):
                put(shop, claim, "2", 2)
            renewed = again.renew(claim)
            assert again.position("shop") == "1", "the commit is hidden"
            with pytest.raises(Unavailable, match="has not ended"):
                again.begin("shop", renewed)
        stuck.abort()
        with pytest.raises(OutcomeUnknown, match="still committing"):
            again.begin("shop", renewed)
        assert again.position("shop") == "2"
        put(again, again.renew(claim), "3", 3)
        assert ids(stored(again)) == [1, 2, 3]
    finally:
        for log in (east, shop, again):
            log.close()


def test_a_writer_whose_id_was_taken_by_nobody_later_starts_again_instead_of_ending(lab: Lab) -> None:
    """Two readers of one claim: neither is later, so neither is told to end, and each change is there once."""
    one, other = KafkaLog.open(lab.url, lab.pipeline), KafkaLog.open(lab.url, lab.pipeline)
    try:
        claim = one.claim(lab.pipeline)
        put(one, claim, "1", 1)
        put(other, claim, "2", 2)
        with pytest.raises((OutcomeUnknown, Unavailable)) as caught:
            put(one, claim, "3", 3)
        assert not isinstance(caught.value, Fenced)
        put(one, one.renew(claim), "3", 3)
        assert ids(stored(one)) == [1, 2, 3]
    finally:
        one.close()
        other.close()
