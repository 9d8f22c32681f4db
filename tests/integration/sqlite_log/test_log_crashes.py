"""A writer killed anywhere leaves a whole log, and the next one goes on from it: nothing lost, doubled or torn."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from log_scene import DEADLINE_S, TOPIC, changes, ids, opened, put, start_writer, stored

from raypipe.errors import Fenced, Unavailable
from raypipe.faults import arm

TRANSACTIONS = 4  # of two commits with two batches each: 8 commits, 16 rows


@pytest.mark.parametrize("passage", [1, 2, 3, 6])
@pytest.mark.parametrize("point", ["log.append.before", "log.append.after", "log.commit.before", "log.commit.after"])
def test_a_writer_killed_at_any_point_leaves_whole_transactions_and_the_next_completes_them(
    tmp_path: Path, point: str, passage: int
) -> None:
    path, fired = tmp_path / "log.db", tmp_path / "fired"
    first = start_writer(path, TRANSACTIONS, faults=f"{point}=kill@{passage}", fired=fired)
    said, _ = first.communicate(timeout=DEADLINE_S)
    assert first.returncode == -signal.SIGKILL
    assert fired.read_text().startswith(f"{point} kill ")

    log = opened(path)
    position = int(log.position("shop") or 0)
    told = said.count("durable")
    assert position == told + (1 if point == "log.commit.after" else 0)
    assert ids(stored(log)) == list(range(4 * (position // 2)))
    log.close()

    second = start_writer(path, TRANSACTIONS)
    said, _ = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 0, said
    log = opened(path)
    assert ids(stored(log)) == list(range(4 * TRANSACTIONS))
    assert [batch.offset for batch in stored(log)] == list(range(4 * TRANSACTIONS))
    assert [cut.rows for cut in log.cuts()] == [4 * n for n in range(1, TRANSACTIONS + 1)]
    log.close()


@pytest.mark.parametrize("point", ["log.retain.before", "log.retain.after"])
def test_a_retention_killed_half_way_is_done_by_the_next(tmp_path: Path, point: str) -> None:
    path, fired = tmp_path / "log.db", tmp_path / "fired"
    first = start_writer(path, TRANSACTIONS, "retain", faults=f"{point}=kill@2", fired=fired)
    first.communicate(timeout=DEADLINE_S)
    assert first.returncode == -signal.SIGKILL
    assert fired.read_text().startswith(f"{point} kill ")
    log = opened(path)
    assert [cut.rows for cut in log.cuts()] == ([4, 8] if point == "log.retain.before" else [8])
    last = log.last_cut()
    assert last is not None
    log.retain(last)
    assert log.size() == 0
    assert ids(stored(log)) == []
    log.close()


def test_of_two_processes_the_older_is_fenced_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    older = start_writer(path, TRANSACTIONS, "wait")
    assert older.stdout is not None
    assert older.stdout.readline() == "claimed 1\n"
    newer = start_writer(path, TRANSACTIONS)
    said, _ = newer.communicate(timeout=DEADLINE_S)
    assert newer.returncode == 0, said
    said, _ = older.communicate("go\n", timeout=DEADLINE_S)
    assert older.returncode == 3
    assert "Fenced Run 2 of pipeline 'p' has taken over from run 1." in said
    log = opened(path)
    assert ids(stored(log)) == list(range(4 * TRANSACTIONS))
    log.close()


def test_a_writer_stopped_before_its_commit_writes_nothing_when_it_wakes_after_a_takeover(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    older = start_writer(path, TRANSACTIONS, faults="log.append.after=stop@3")
    assert older.stdout is not None
    assert [older.stdout.readline() for _ in range(2)] == ["claimed 1\n", "durable 1\n"]
    os.waitid(os.P_PID, older.pid, os.WSTOPPED)
    log = opened(path)
    claim = log.claim("p")
    older.send_signal(signal.SIGCONT)
    said, _ = older.communicate(timeout=DEADLINE_S)
    assert older.returncode == 3, said
    assert log.position("shop") == "1"
    assert put(log, claim, "2", 100).positions == {"shop": "2"}
    assert ids(stored(log)) == [0, 1, 100]
    log.close()


def test_a_lost_reply_is_found_out_by_reading_the_position_back(tmp_path: Path) -> None:
    log = opened(tmp_path / "log.db")
    claim = log.claim("p")
    for point, position in (("log.commit.before", None), ("log.commit.after", "1")):
        transaction = log.begin("shop", claim)
        transaction.append(TOPIC, changes(1))
        arm(f"{point}={'raise' if point == 'log.commit.before' else 'lose'}")
        try:
            with pytest.raises(Unavailable if point == "log.commit.before" else Exception, match=point):
                transaction.commit("1", boundary=True)
        finally:
            arm("")
            transaction.abort()
        assert log.position("shop") == position
    assert ids(stored(log)) == [1]
    log.close()


def test_the_mutants_break_exactly_what_they_name(tmp_path: Path) -> None:
    log = opened(tmp_path / "log.db")
    claim = log.claim("p")
    try:
        arm("mutant.torn_cut=skip")
        transaction = log.begin("shop", claim)
        transaction.append(TOPIC, changes(1))
        assert transaction.commit("1", boundary=False) is not None

        arm("mutant.position_before_data=skip,log.commit.before=raise")
        transaction = log.begin("shop", claim)
        transaction.append(TOPIC, changes(2))
        with pytest.raises(Unavailable):
            transaction.commit("2", boundary=True)
        assert log.position("shop") == "2"
        assert ids(stored(log)) == [1]

        arm("mutant.no_fence=skip")
        log.claim("p")
        put(log, claim, "3", 3)
        arm("")
        with pytest.raises(Fenced):
            put(log, claim, "4", 4)
    finally:
        arm("")
        log.close()
