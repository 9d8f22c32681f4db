"""The log's file stays as large as what it must keep, and large batches come back in parts."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

from log_scene import DEADLINE_S, TOPIC, changes, ids, opened, put, stored

from raypipe.log.sqlite import checkpoints, layout, retention
from raypipe.log.sqlite.file import LogFile
from raypipe.model import Op

MIB = 1 << 20


def test_the_file_does_not_grow_while_what_is_appended_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = opened(path)
    claim = log.claim("p")
    kept = []
    for n in range(120):
        kept.append(put(log, claim, str(n), n, body=os.urandom(MIB)))
        if len(kept) > 4:
            assert log.retain(kept.pop(0)) > 0 or n == 4
        assert log.size() < 6 * MIB
    log.close()
    assert path.stat().st_size < 12 * MIB
    assert not path.with_name("log.db-wal").exists()


def test_the_wal_does_not_outgrow_its_bound_by_more_than_a_transaction(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log, reader = opened(path), opened(path)
    claim = log.claim("p")
    for n in range(60):
        cut = put(log, claim, str(n), n, body=os.urandom(2 * MIB))
        assert len(stored(reader)) == 1  # a reader that comes and goes does not keep the WAL from being used again
        log.retain(cut)
    assert path.with_name("log.db-wal").stat().st_size < layout.WAL_BYTES + 8 * MIB
    log.close()
    reader.close()


def test_retention_works_in_steps_and_tells_what_it_freed(tmp_path: Path) -> None:
    log = opened(tmp_path / "log.db")
    claim = log.claim("p")
    cuts = [put(log, claim, str(n), n) for n in range(retention._STEP_BATCHES + 20)]
    before = log.size()
    assert before == cuts[-1].bytes
    freed = log.retain(cuts[-2])
    assert log.size() == before - freed == cuts[-1].bytes - cuts[-2].bytes
    assert log.cuts() == cuts[-2:]
    assert log.retain(cuts[0]) == 0
    assert log.cuts() == cuts[-2:]
    log.close()


def test_what_is_beyond_the_last_boundary_counts_and_is_never_forgotten(tmp_path: Path) -> None:
    log = opened(tmp_path / "log.db")
    claim = log.claim("p")
    put(log, claim, "1", 1)
    transaction = log.begin("shop", claim)
    transaction.append(TOPIC, changes(2, op=Op.TRUNCATE))
    transaction.commit("2", boundary=False)
    cut = log.last_cut()
    assert cut is not None
    log.retain(cut)
    assert log.size() > 0
    assert log.load_begins(TOPIC) == 1
    last = put(log, claim, "3", 3)
    assert ids(stored(log, after=cut)) == [2, 3]
    log.retain(last)
    assert log.size() == 0
    log.close()


def test_a_large_batch_comes_back_in_parts_that_are_the_same_rows(tmp_path: Path) -> None:
    log = opened(tmp_path / "log.db")
    numbers = list(range(40))
    cut = put(log, log.claim("p"), "1", *numbers, body=os.urandom(MIB))
    found = stored(log)
    assert ids(found) == numbers
    assert len(found) > 4
    assert [batch.offset for batch in found] == list(range(len(found)))
    assert cut.offsets == {TOPIC: len(found)}
    parts = log.slices(None, cut, [TOPIC], 10 * MIB)
    assert 3 <= len(parts) <= 6
    assert sum(part.bytes for part in parts) == log.size() == cut.bytes
    log.close()


def test_a_transaction_larger_than_memory_wants_is_one_cut(tmp_path: Path) -> None:
    log, other = opened(tmp_path / "log.db"), opened(tmp_path / "log.db")
    transaction = log.begin("shop", log.claim("p"))
    for n in range(9):
        transaction.append(TOPIC, changes(n, body=os.urandom(6 * MIB)))
        assert other.last_cut() is None
    cut = transaction.commit("1", boundary=True)
    assert other.last_cut() == cut
    assert ids(stored(other)) == list(range(9))
    log.close()
    other.close()


def test_the_wal_is_copied_into_the_file_beside_the_writer_long_before_a_commit_must_do_it(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = opened(path)
    claim = log.claim("p")
    commits = 2 * checkpoints.ROUND_BYTES // MIB
    assert commits * MIB < layout.WAL_BYTES // 2
    for n in range(commits):
        put(log, claim, str(n), n, body=os.urandom(MIB))
        _await_rounds()
    assert path.stat().st_size > checkpoints.ROUND_BYTES
    log.close()
    reopened = opened(path)
    assert sum(batch.batch.num_rows for batch in stored(reopened)) == commits
    reopened.close()


def test_a_round_that_fails_is_nobodys_loss(tmp_path: Path) -> None:
    def refuse() -> sqlite3.Connection:
        raise sqlite3.OperationalError("no more files")

    rounds = checkpoints.Checkpoints(tmp_path / "log.db-wal", refuse)
    for _ in range(3):
        rounds.committed(checkpoints.ROUND_BYTES)
    rounds.close()
    rounds.close()


def test_a_commit_after_a_note_waits_for_the_disk_again(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    opened(path).close()
    file = LogFile.existing(path)
    full = (2,)
    with file.transaction(durable=False):
        assert file.one("PRAGMA synchronous") != full
    with file.transaction():
        assert file.one("PRAGMA synchronous") == full
    file.close()


def _await_rounds() -> None:
    for thread in threading.enumerate():
        if thread.name == "raypipe-checkpoint":
            thread.join(DEADLINE_S)
