"""Stores and logs on disks that are full or read-only: a clear error, nothing lost, and it goes on once mended."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from small_disk import Disk

from raypipe.engine.status import Status
from raypipe.errors import Unavailable
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.plan.model import Plan
from raypipe.spec import load
from raypipe.verify import verify

DEADLINE_S = 60.0
SINKS = {"sqlite": "sqlite:///{}/w.db", "duckdb": "duckdb:///{}/w.duckdb", "delta": "delta:///{}/lake"}
FULL = r"[Dd]isk is full|No space left"
READ_ONLY = r"[Rr]ead-only"


class Office:
    """A source and a pipeline file, and one of source, store and log on another disk than the rest."""

    def __init__(self, folder: Path, sink: str, log: str, source: Path | None = None) -> None:
        self.source = (source or folder) / "office.db"
        with closing(sqlite3.connect(self.source)) as connection:
            connection.executescript(
                "PRAGMA journal_mode = wal; CREATE TABLE papers (id INTEGER PRIMARY KEY, body BLOB);"
                "INSERT INTO papers VALUES (1, x'00')"
            )
        self._file = folder / "pipeline.yaml"
        self._file.write_text(
            f"pipeline: office\nlog: {log}\n"
            f"sources:\n  office: {{url: 'sqlite:///{self.source}', tables: [papers]}}\n"
            f"sinks:\n  store: {{url: '{sink}', tables: {{papers: {{from: office.papers}}}}}}\n"
        )

    def plan(self) -> Plan:
        return assemble(load(self._file))

    def work_on(self) -> None:
        """A few more rows."""
        with closing(sqlite3.connect(self.source, timeout=DEADLINE_S)) as connection, connection:
            connection.executemany("INSERT INTO papers VALUES (?, x'02')", [(n,) for n in range(1000, 1010)])

    def work(self) -> None:
        """Two MiB that do not compress, a change and a delete."""
        with closing(sqlite3.connect(self.source, timeout=DEADLINE_S)) as connection, connection:
            connection.executemany("INSERT INTO papers VALUES (?, randomblob(4096))", [(n,) for n in range(2, 514)])
            connection.execute("UPDATE papers SET body = x'01' WHERE id = 1")
            connection.execute("DELETE FROM papers WHERE id = 7")


class Run:
    """A run in a thread, and what it says of itself."""

    def __init__(self, plan: Plan) -> None:
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._status: Status | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(plan,))
        self._thread.start()

    def _work(self, plan: Plan) -> None:
        try:
            run_local(plan, until="forever", stop=self._stop, observer=self._hear)
        except BaseException as failure:
            self._failure = failure

    def _hear(self, status: Status) -> None:
        with self._news:
            self._status = status
            self._news.notify_all()

    def says(self, what: Callable[[Status], bool]) -> Status:
        """Waits for a status; the run must not end before."""
        deadline = time.monotonic() + DEADLINE_S
        with self._news:
            while self._status is None or not what(self._status):
                assert self._thread.is_alive(), f"the run ended: {self._failure!r}"
                assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {self._status}"
                self._news.wait(0.2)
            return self._status

    def end(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@contextmanager
def running(plan: Plan) -> Iterator[Run]:
    run = Run(plan)
    try:
        yield run
    finally:
        run.end()


def caught_up(office: Office) -> Callable[[Status], bool]:
    """Whether the store holds every change of the source."""
    with closing(sqlite3.connect(office.source)) as connection:
        (seq,) = connection.execute("SELECT seq FROM _raypipe_clock").fetchone()
    return lambda status: (
        bool(status.sinks) and f'"seq":{seq}' in status.sinks[0].position.get("office", "").replace(" ", "")
    )


def settled(plan: Plan) -> None:
    run_local(plan, until="idle")


@pytest.mark.parametrize("url", SINKS.values(), ids=SINKS)
def test_a_store_whose_disk_is_full_waits_and_goes_on_when_there_is_room(url: str, disk: Disk, tmp_path: Path) -> None:
    office = Office(tmp_path, url.format(disk.path), f"sqlite:///{tmp_path}/log.db")
    settled(office.plan())
    disk.fill()
    with running(office.plan()) as run:
        office.work()
        told = run.says(lambda status: bool(status.sinks and status.sinks[0].state == "retrying"))
        assert_says(FULL, told.sinks[0].error)
        assert str(disk.path) in told.sinks[0].error
        disk.free()
        run.says(caught_up(office))
    assert verify(office.plan()).ok


def test_a_log_whose_disk_is_full_waits_and_goes_on_when_there_is_room(disk: Disk, tmp_path: Path) -> None:
    office = Office(tmp_path, f"duckdb:///{tmp_path}/w.duckdb", f"sqlite:///{disk.path}/log.db")
    settled(office.plan())
    with running(office.plan()) as run:
        run.says(lambda status: status.state == "running")
        disk.fill()
        office.work()
        told = run.says(lambda status: bool(status.instances and status.instances[0].state == "retrying"))
        assert_says(FULL, told.instances[0].error)
        disk.free()
        run.says(caught_up(office))
    assert verify(office.plan()).ok


@pytest.mark.parametrize("url", SINKS.values(), ids=SINKS)
def test_a_store_that_may_only_be_read_waits_and_goes_on_when_it_may_be_written(
    url: str, disk: Disk, tmp_path: Path
) -> None:
    office = Office(tmp_path, url.format(disk.path), f"sqlite:///{tmp_path}/log.db")
    settled(office.plan())
    office.work()
    disk.make_read_only()
    with running(office.plan()) as run:
        told = run.says(lambda status: bool(status.sinks and status.sinks[0].state == "retrying"))
        assert_says(READ_ONLY, told.sinks[0].error)
        disk.make_writable()
        run.says(caught_up(office))
    assert verify(office.plan()).ok


def test_a_log_that_may_only_be_read_is_unavailable_in_one_sentence(disk: Disk, tmp_path: Path) -> None:
    office = Office(tmp_path, f"duckdb:///{tmp_path}/w.duckdb", f"sqlite:///{disk.path}/log.db")
    settled(office.plan())
    office.work()
    disk.make_read_only()
    with pytest.raises(Unavailable, match="read-only"):
        settled(office.plan())
    disk.make_writable()
    settled(office.plan())
    assert verify(office.plan()).ok


def test_a_source_whose_disk_is_full_is_read_all_the_same(disk: Disk, tmp_path: Path) -> None:
    office = Office(tmp_path, f"duckdb:///{tmp_path}/w.duckdb", f"sqlite:///{tmp_path}/log.db", disk.path)
    settled(office.plan())
    with running(office.plan()) as run:
        run.says(lambda status: status.state == "running")
        with closing(sqlite3.connect(office.source, timeout=DEADLINE_S)) as connection, connection:
            connection.execute("INSERT INTO papers VALUES (2, randomblob(4096))")
        disk.fill()
        run.says(caught_up(office))
        disk.free()
        office.work_on()
        run.says(caught_up(office))
    assert verify(office.plan()).ok


def test_a_source_that_may_only_be_read_is_read_and_pruned_once_it_may_be_written(disk: Disk, tmp_path: Path) -> None:
    office = Office(tmp_path, f"duckdb:///{tmp_path}/w.duckdb", f"sqlite:///{tmp_path}/log.db", disk.path)
    settled(office.plan())
    office.work()
    with closing(sqlite3.connect(office.source)) as connection:
        # A WAL without its index, as a writer that ended well leaves it, cannot even be read there.
        connection.execute("PRAGMA journal_mode = delete")
    disk.make_read_only()
    with running(office.plan()) as run:
        run.says(caught_up(office))
    disk.make_writable()
    office.work_on()
    settled(office.plan())
    assert verify(office.plan()).ok
    with closing(sqlite3.connect(office.source)) as connection:
        assert connection.execute("SELECT count(*) FROM _raypipe_changes_1").fetchone() <= (2,)


def assert_says(pattern: str, error: str) -> None:
    assert re.search(pattern, error), error
