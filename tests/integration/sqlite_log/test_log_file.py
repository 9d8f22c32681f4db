"""The log's file under attack: removed, replaced, overwritten, locked, full; always a clear error, never a loss."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from log_scene import DEADLINE_S, TOPIC, changes, ids, opened, put, start_writer, stored

from raypipe.errors import Corrupt, Directive, InvariantBroken, Kind, OutcomeUnknown, RaypipeError, Unavailable
from raypipe.log import open_existing_log, open_log
from raypipe.log.sqlite import SqliteLog, layout
from raypipe.model import Claim

Written = tuple[SqliteLog, Claim]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def written(path: Path) -> Iterator[Written]:
    log = opened(path)
    claim = log.claim("p")
    for n in range(3):
        put(log, claim, str(n), n, body=os.urandom(50_000))
    yield log, claim
    log.close()


def files(path: Path) -> list[Path]:
    return [path, path.with_name("log.db-wal"), path.with_name("log.db-shm")]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_removed_file_stops_every_write_and_every_answer_until_it_is_put_back(
    written: Written, path: Path, which: int
) -> None:
    log, claim = written
    transaction = log.begin("shop", claim)
    transaction.append(TOPIC, changes(9))
    victim = files(path)[which]
    victim.rename(path.with_name("away"))
    with pytest.raises(Unavailable, match=f"{victim.name} was removed or replaced"):
        transaction.commit("9", boundary=True)
    for attempt in (
        lambda: log.begin("shop", claim),
        lambda: log.position("shop"),
        lambda: log.claim("p"),
        lambda: log.renew(claim),
        log.cuts,
        log.last_cut,
        lambda: log.cut(1),
        log.size,
        lambda: log.load_begins(TOPIC),
        lambda: log.notes(""),
        lambda: log.write_note("a", "b"),
    ):
        with pytest.raises(Unavailable, match="was removed or replaced"):
            attempt()
    path.with_name("away").rename(victim)
    assert log.position("shop") == "2"
    put(log, claim, "3", 3)
    assert ids(stored(log)) == [0, 1, 2, 3]


def test_a_file_removed_during_the_commit_leaves_its_outcome_unknown(
    written: Written, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, claim = written
    file = log._file
    commit = file._commit
    monkeypatch.setattr(file, "_commit", lambda: (commit(), path.unlink()))
    with pytest.raises(OutcomeUnknown, match="was removed"):
        put(log, claim, "3", 3)
    with pytest.raises(Unavailable):
        log.position("shop")


def test_a_file_replaced_by_another_is_never_written_to_in_the_belief_that_it_is_the_first(
    written: Written, path: Path
) -> None:
    log, claim = written
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)
    with pytest.raises(Unavailable, match="replaced"):
        put(log, claim, "3", 3)


def test_a_log_that_was_replaced_by_a_new_one_does_not_accept_the_old_claim(written: Written, path: Path) -> None:
    log, claim = written
    log.close()
    for file in files(path):
        file.unlink(missing_ok=True)
    fresh = opened(path)
    with pytest.raises(Corrupt, match="does not know run 1"):
        fresh.begin("shop", claim)
    with pytest.raises(Corrupt, match="does not know run 1"):
        fresh.renew(claim)
    fresh.close()


def test_a_missing_log_whose_wal_remains_is_not_begun_anew(written: Written, path: Path) -> None:
    path.unlink()
    with pytest.raises(Unavailable, match=r"missing, but its write-ahead file log\.db-wal is still there"):
        opened(path)
    assert not path.exists()


def everything(path: Path) -> tuple[str | None, list[pa.RecordBatch]]:
    log = opened(path)
    try:
        return log.position("shop"), [batch.batch.rows for batch in stored(log)]
    finally:
        log.close()


@pytest.mark.parametrize("size", [4096, 200_000])
def test_overwritten_bytes_are_never_read_as_changes(written: Written, path: Path, size: int) -> None:
    log, _ = written
    expected = [batch.batch.rows for batch in stored(log)]
    log.close()
    content = path.read_bytes()
    refusals = []
    for start in range(0, len(content), 20_000):
        path.write_bytes(content[:start] + os.urandom(min(size, len(content) - start)) + content[start + size :])
        try:
            position, found = everything(path)
        except Corrupt as error:
            refusals.append(error)
        else:
            assert (position, found) == ("2", expected)
    assert len(refusals) > 1
    for error in refusals:
        assert str(path) in error.message
        assert error.remedy
        assert error.directive is Directive.STOP


def test_a_position_or_cut_changed_in_the_file_is_noticed(written: Written, path: Path) -> None:
    log, _ = written
    outside = sqlite3.connect(path)
    outside.execute("""UPDATE writers SET progress = replace(progress, '"2"', '"1"')""")
    outside.execute("UPDATE cuts SET body = replace(body, '\"rows\":2', '\"rows\":1')")
    outside.execute("UPDATE batches SET offset = 7 WHERE place = 1")
    outside.execute("DELETE FROM batches WHERE place = 2")
    outside.commit()
    outside.close()
    with pytest.raises(Corrupt, match="position of instance shop"):
        log.position("shop")
    with pytest.raises(Corrupt, match="cut 2 is not what was written"):
        log.cuts()
    with pytest.raises(Corrupt, match="batches between places"):
        stored(log)


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "is empty"), (b"hello, this is my diary\n" * 500, "is not a raypipe log")],
)
def test_a_file_that_is_no_log_is_refused_and_left_alone(path: Path, content: bytes, what: str) -> None:
    path.write_bytes(content)
    with pytest.raises(Corrupt, match=what):
        opened(path)
    assert path.read_bytes() == content


def test_another_sqlite_database_is_refused_and_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE customers (id)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(Corrupt, match="not a raypipe log"):
        opened(path)
    assert path.read_bytes() == before


def test_a_log_of_another_format_is_refused(path: Path) -> None:
    opened(path).close()
    outside = sqlite3.connect(path)
    outside.execute("PRAGMA user_version = 99")
    outside.close()
    with pytest.raises(Corrupt, match="format 99; this raypipe reads format 1"):
        opened(path)


def test_a_locked_log_is_unavailable_and_works_again_afterwards(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BUSY_TIMEOUT_S", 0.05)
    log = opened(path)
    claim = log.claim("p")
    put(log, claim, "1", 1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked by another process") as caught:
        put(log, claim, "2", 2)
    assert caught.value.directive is Directive.RETRY
    assert ids(stored(log)) == [1]
    holder.execute("ROLLBACK")
    holder.close()
    put(log, claim, "2", 2)
    assert ids(stored(log)) == [1, 2]
    log.close()


def test_a_full_disk_loses_nothing_and_the_log_goes_on_when_there_is_space(path: Path) -> None:
    log = opened(path)
    claim = log.claim("p")
    put(log, claim, "1", 1)
    (pages,) = log._file.one("PRAGMA page_count")
    log._file.run(f"PRAGMA max_page_count = {pages + 2}")
    for _ in range(3):
        with pytest.raises(Unavailable, match="the disk is full"):
            put(log, claim, "2", 2, body=os.urandom(100_000))
    assert log.position("shop") == "1"
    log._file.run("PRAGMA max_page_count = 1000000")
    put(log, claim, "2", 2, body=os.urandom(100_000))
    assert ids(stored(log)) == [1, 2]
    log.close()


def test_a_read_only_log_is_unavailable(path: Path) -> None:
    log = opened(path)
    claim = log.claim("p")
    log._file.run("PRAGMA query_only = ON")
    with pytest.raises(Unavailable, match="is read-only"):
        put(log, claim, "1", 1)
    log.close()


def test_an_io_error_at_the_commit_leaves_its_outcome_unknown(path: Path) -> None:
    script = """
import resource, signal, sys
from log_scene import *
from raypipe.errors import OutcomeUnknown, RaypipeError
log = opened(Path(sys.argv[1]))
claim = log.claim("p")
put(log, claim, "1", 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
wal = Path(sys.argv[1] + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 20_000, resource.RLIM_INFINITY))
try:
    put(log, claim, "2", 2, body=bytes(range(256)) * 400)
except OutcomeUnknown as error:
    print(error)
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 7, done.stderr
    assert "whether the commit is durable is unknown" in done.stdout
    log = opened(path)
    assert log.position("shop") == "1"
    assert ids(stored(log)) == [1]
    log.close()


def test_a_log_that_is_only_looked_at_is_not_made(path: Path) -> None:
    with pytest.raises(Unavailable, match="There is no log at"):
        open_existing_log(f"sqlite:///{path}", pipeline="p")
    assert not path.exists()
    opened(path).close()
    open_existing_log(f"sqlite:///{path}", pipeline="p").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be made"):
        opened(tmp_path / "file" / "log.db")


@pytest.mark.parametrize("url", ["pulsar://host/topic", "sqlite:///", "sqlite://log.db", "postgresql://u:secret@h/db"])
def test_a_url_of_no_known_log_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(RaypipeError, match="sqlite:///PATH") as caught:
        open_log(url, pipeline="p")
    assert caught.value.kind is Kind.PIPELINE_FILE
    assert "secret" not in str(caught.value)


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "müll eimer #1?%41" / "log.db"
    log = SqliteLog.create(path)
    put(log, log.claim("p"), "1", 1)
    log.close()
    assert path.exists()


def test_a_log_belongs_to_one_pipeline(path: Path) -> None:
    log = opened(path)
    log.claim("first")
    with pytest.raises(RaypipeError, match="belongs to pipeline 'first', not to 'second'"):
        log.claim("second")
    assert log.claim("first").run == 2
    log.close()


def test_processes_that_make_the_log_together_make_one(path: Path) -> None:
    writers = [start_writer(path, 0) for _ in range(4)]
    said = sorted(writer.communicate(timeout=DEADLINE_S)[0] for writer in writers)
    assert said == [f"claimed {run}\n" for run in range(1, 5)]
    assert {file.name for file in path.parent.iterdir()} <= {"log.db", "log.db-wal", "log.db-shm"}


def test_readers_in_other_objects_never_wait_for_a_transaction(path: Path) -> None:
    log, other = opened(path), opened(path)
    claim = log.claim("p")
    put(log, claim, "1", 1)
    transaction = log.begin("shop", claim)
    for n in range(5):
        transaction.append(TOPIC, changes(n, body=os.urandom(8 << 20)))
    assert log._file.in_transaction, "a large transaction takes the lock before its commit"
    assert other.position("shop") == "1"
    assert ids(stored(other)) == [1]
    with pytest.raises(InvariantBroken):
        log.write_note("a", "b")
    transaction.abort()
    other.write_note("a", "b")
    assert log.notes("") == {"a": "b"}
    assert ids(stored(log)) == [1]
    log.close()
    other.close()
