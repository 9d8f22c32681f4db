"""Steps that ask for the time: rows come and go while nothing happens in the source."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pytest

from raypipe.contracts import Log
from raypipe.engine.pump import Pump
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.local.ticking import Ticking
from raypipe.log import open_log
from raypipe.spec import load
from raypipe.verify import verify

DEADLINE_S = 90.0
FILE = """\
pipeline: tasks
log: sqlite:///log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [tasks]}
steps:
  ahead:
    sql: SELECT id FROM shop.tasks WHERE to_timestamp(due) > now()
  overdue:
    sql: SELECT person, count(*) AS n FROM shop.tasks WHERE to_timestamp(due) <= now() GROUP BY person
sinks:
  office:
    url: "sqlite:///office.db"
    tables: {ahead: {from: ahead}, overdue: {from: overdue}}
limits: {clock_seconds: 0.2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.yaml").write_text(FILE)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, person TEXT, due INTEGER)")
    return tmp_path


def add(folder: Path, *tasks: tuple[int, str, int]) -> None:
    with closing(sqlite3.connect(folder / "shop.db", timeout=60)) as shop, shop:
        shop.executemany("INSERT INTO tasks VALUES (?, ?, ?)", tasks)


@contextmanager
def running(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "raypipe", "run", str(folder / "pipeline.yaml"), "--local", "--until", "forever"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ})
    try:
        yield
        assert run.poll() is None
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(DEADLINE_S)


def held(folder: Path, table: str) -> list[tuple[object, ...]]:
    try:
        with closing(sqlite3.connect(folder / "office.db", timeout=60)) as office:
            return office.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
    except sqlite3.OperationalError:
        return []  # not made yet


def soon(holds: Callable[[], bool]) -> bool:
    deadline, pause = time.monotonic() + DEADLINE_S, Event()
    while not holds():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.05)
    return True


def test_rows_come_and_go_by_the_time_alone(folder: Path) -> None:
    now = int(time.time())
    add(folder, (1, "ann", now + 2), (2, "ann", now + 100_000), (3, "bob", now - 5))
    with running(folder):
        assert soon(lambda: held(folder, "ahead") == [(2,)])
        assert soon(lambda: held(folder, "overdue") == [("ann", 1), ("bob", 1)])
        report = verify(assemble(load(folder / "pipeline.yaml")))
        assert report.ok, report
    add(folder, (4, "bob", now - 1))
    run_local(assemble(load(folder / "pipeline.yaml")))
    assert held(folder, "overdue") == [("ann", 1), ("bob", 2)]
    assert verify(assemble(load(folder / "pipeline.yaml"))).ok


def test_a_run_over_a_silent_source_brings_the_views_to_its_own_time(folder: Path) -> None:
    add(folder, (1, "ann", 100))
    plan = assemble(load(folder / "pipeline.yaml"))
    run_local(plan)
    with closing(open_log(plan.log, pipeline=plan.pipeline)) as log:
        first = log.last_cut()
        assert first is not None
        assert soon(lambda: time.time() > first.at + 1)
        run_local(plan)
        last = log.last_cut()
        assert last is not None
        assert last.number > first.number
        assert (last.positions, last.offsets) == (first.positions, first.offsets)


class Standing:
    """A source that has nothing to say."""

    instance = "shop"

    def open(self, position: str | None, reload: object = ()) -> None:
        pass


def standing(log: Log, claim: object) -> Pump:
    pump = Pump(Standing(), log, "tasks", claim, 1 << 20)  # type: ignore[arg-type]
    pump.open()
    return pump


def test_no_cut_is_made_inside_a_transaction_or_before_the_first_cut_or_if_nobody_asks_for_the_time(
    tmp_path: Path,
) -> None:
    with closing(open_log(f"sqlite:///{tmp_path}/log.db", pipeline="tasks")) as log:
        claim = log.claim("tasks")
        assert not standing(log, claim).stand_still()
        log.begin("shop", claim).commit("1", boundary=True, loading=["shop.tasks"])
        log.begin("other", claim).commit("1", boundary=True, loading=["other.tasks"])
        assert not Ticking(None).tick(standing(log, claim))
        assert standing(log, claim).stand_still()
        last = log.last_cut()
        assert last is not None
        assert last.number == 3
        assert last.loading == ("other.tasks", "shop.tasks")
        log.begin("shop", claim).commit("2", boundary=False)
        assert not standing(log, claim).stand_still()
        assert log.last_cut() == last
