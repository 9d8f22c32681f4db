"""A writer that was overtaken commits nothing, however late it notices; a reply that was lost is read back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from delta_lab import AFTER, BAG, BEFORE, DELETE, INSERT, ORDERS, READ, TRUNCATE, Lab, changes, cut, day, sink_table
from deltalake.exceptions import CommitFailedError

from raypipe import faults
from raypipe.errors import Conflict, Fenced, OutcomeUnknown, Unavailable
from raypipe.sinks.delta.lake import Lake
from raypipe.sinks.delta.marks import Marks, owner_of, write_generation, write_marks
from raypipe.sinks.delta.reduce import GONE
from raypipe.sinks.delta.stage import Spool

DEADLINE_S = 60
OWNER = owner_of("shop", "lake", "orders")
LOAD = changes(ORDERS, (TRUNCATE,), (READ, 1, day(1), "a"), (READ, 2, day(2), "b"))
MORE = pa.table({"id": [3], "day": pa.array([day(3)]), "v": ["late"]})
WIDER = pa.schema([("id", pa.decimal128(30, 0)), ("day", pa.date32()), ("v", pa.string())])


@pytest.fixture(autouse=True)
def disarmed():
    yield
    faults.arm("")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, sink_table())
    lab.open(1)
    lab.epoch(LOAD)
    return lab


def merge(lake: Lake, marks, folder: Path) -> None:
    rows = Spool(folder / "rows", 1 << 20)
    rows.add(MORE.append_column(GONE, pa.array([False])))
    lake.merge(rows, 't."id" = s."id"', frozenset(), marks)


def merge_nothing(lake: Lake, marks, folder: Path) -> None:
    rows = Spool(folder / "rows", 1 << 20)
    rows.add(MORE.append_column(GONE, pa.array([True])))
    lake.merge(rows, 't."id" = s."id"', frozenset(), marks)


COMMITS: dict[str, Callable[[Lake, object, Path], None]] = {
    "append": lambda lake, marks, folder: lake.append([MORE], marks),
    "replace": lambda lake, marks, folder: lake.replace([MORE], marks),
    "merge": merge,
    "merge of nothing": merge_nothing,
    "note": lambda lake, marks, folder: lake.note(marks),
    "make anew": lambda lake, marks, folder: lake.make_anew(MORE.schema, ["day"], marks),
    "reshape": lambda lake, marks, folder: lake.reshape(WIDER, [], marks),
    "add columns": lambda lake, marks, folder: lake.add_columns(pa.schema([("n", pa.int8())]), marks),
}


@pytest.mark.parametrize("kind", COMMITS)
def test_every_kind_of_commit_from_a_version_before_the_claim_is_rejected(lab: Lab, kind: str, tmp_path: Path) -> None:
    zombie = Lake.load(lab.path)
    assert zombie is not None
    lab.open(2)
    version = lab.delta().version()
    rows_stay = kind in ("reshape", "add columns")
    marks = Marks(generation=1, cut=9)
    properties = write_generation(OWNER, 1, None) if rows_stay else write_marks(OWNER, marks, ORDERS, cut(9))
    with pytest.raises(CommitFailedError):
        COMMITS[kind](zombie, properties, tmp_path)
    assert (lab.delta().version(), lab.held().generation) == (version, 2)
    assert lab.rows() == [(1, day(1), "a"), (2, day(2), "b")]


def test_files_that_a_successor_has_rewritten_are_not_merged_by_the_writer_before_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path, sink_table(BAG))
    lab.open(1)
    lab.epoch(changes(BAG, (TRUNCATE,), (READ, 1, day(1), "a")))
    lab.epoch(changes(BAG, (INSERT, 2, day(2), "b")))
    zombie = Lake.load(lab.path)
    assert zombie is not None
    lab.open(2)
    lab.epoch(changes(BAG, (DELETE, 2, day(2), "b")))
    with pytest.raises(CommitFailedError):
        zombie.compact()
    assert lab.rows() == [(1, day(1), "a")]


SCRIPT = """
import sys
from pathlib import Path
from delta_lab import *
from raypipe.errors import Fenced
lab = Lab(Path(sys.argv[1]), sink_table(ORDERS if sys.argv[2] != "append" else BAG))
lab.open(1)
{"merge": lambda: lab.stage(changes(ORDERS, (INSERT, 3, day(3), "late"))),
 "append": lambda: lab.stage(changes(BAG, (INSERT, 3, day(3), "late"))),
 "overwrite": lambda: lab.stage(changes(ORDERS, (TRUNCATE,), (READ, 3, day(3), "late"))),
 "nothing": lambda: lab.stage()}[sys.argv[2]]()
try:
    lab.sink.commit()
except Fenced:
    sys.exit(7)
"""


def run(folder: Path, what: str, faults: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), what],
        env=os.environ
        | {"RAYPIPE_FAULTS": faults, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )


def wait_until_stopped(process: subprocess.Popen[bytes]) -> None:
    """Returns when the process has stopped itself; the kernel wakes us, so nothing is polled."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the process ended with {status}"
    assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize("what", ["merge", "append", "overwrite", "nothing"])
def test_a_process_paused_between_its_check_and_its_commit_writes_nothing_when_it_wakes(
    tmp_path: Path, what: str
) -> None:
    schema = BAG if what == "append" else ORDERS
    lab = Lab(tmp_path, sink_table(schema))
    lab.open(1)
    lab.epoch(changes(schema, (TRUNCATE,), (READ, 1, day(1), "a")))
    process = run(tmp_path, what, "sink.commit.data=stop")
    wait_until_stopped(process)
    lab.open(2)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(DEADLINE_S) == 7
    assert (lab.rows(), lab.held().cut, lab.held().generation) == ([(1, day(1), "a")], cut(1), 2)
    lab.epoch(changes(schema, (INSERT, 2, day(2), "new")))
    assert lab.rows() == [(1, day(1), "a"), (2, day(2), "new")]


@pytest.mark.parametrize("point", ["sink.open.after", "sink.commit.before", "sink.commit.data", "sink.commit.after"])
def test_a_killed_process_leaves_the_epoch_whole_or_not_at_all(tmp_path: Path, point: str) -> None:
    lab = Lab(tmp_path, sink_table())
    lab.open(1)
    lab.epoch(LOAD)
    assert run(tmp_path, "merge", f"{point}=kill").wait(DEADLINE_S) == -signal.SIGKILL
    done = point == "sink.commit.after"
    assert lab.open(2).cut == cut(2 if done else 1)
    assert ((3, day(3), "late") in lab.rows()) == done
    assert len(lab.rows()) == 2 + done


def test_a_process_that_ran_to_its_end_exits_cleanly(tmp_path: Path) -> None:
    Lab(tmp_path, sink_table()).open(1)
    assert [run(tmp_path, "overwrite", "").wait(DEADLINE_S) for _ in range(3)] == [0, 0, 0]


def test_without_the_fence_a_writer_that_was_overtaken_gets_through(lab: Lab) -> None:
    lab.stage(changes(ORDERS, (INSERT, 3, day(3), "late")))
    zombie = lab.sink
    lab.open(2)
    faults.arm("mutant.no_fence=skip")
    zombie.commit()
    assert (3, day(3), "late") in lab.rows()


def test_two_that_open_at_once_agree_on_the_higher_generation(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second claims while the first stands between reading and claiming."""
    note, others = Lake.note, [lab.another_sink()]

    def note_late(lake: Lake, marks) -> None:
        if others:
            others.pop().open(3)
        note(lake, marks)

    monkeypatch.setattr(Lake, "note", note_late)
    with pytest.raises(Fenced):
        lab.open(2)
    assert lab.held().generation == 3


def test_two_that_make_a_table_at_once_agree_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, sink_table())
    create, others = Lake.create, [lab.another_sink()]

    def create_late(*arguments) -> None:
        if others:
            others.pop().open(1)
        create(*arguments)

    monkeypatch.setattr(Lake, "create", create_late)
    assert lab.open(2).generation == 2


@pytest.mark.parametrize(
    ("change", "kind"), [((INSERT, 3, day(3), "c"), "merge"), ((TRUNCATE,), "replace")], ids=["merge", "replace"]
)
def test_a_commit_whose_reply_was_lost_is_found_and_not_repeated(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, change: tuple[object, ...], kind: str
) -> None:
    real = getattr(Lake, kind)

    def lose(*arguments) -> None:
        real(*arguments)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Lake, kind, lose)
    lab.stage(changes(ORDERS, change))
    assert lab.sink.commit().cut == cut(2)


def test_a_commit_that_cannot_be_read_back_has_an_unknown_outcome(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_) -> None:
        monkeypatch.setattr(Lake, "load", lose)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Lake, "merge", lose)
    lab.stage(changes(ORDERS, (INSERT, 3, day(3), "c")))
    with pytest.raises(OutcomeUnknown, match="cut 2"):
        lab.sink.commit()


def test_a_commit_that_failed_and_is_not_there_says_why(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Lake, "merge", fail)
    lab.stage(changes(ORDERS, (INSERT, 3, day(3), "c")))
    with pytest.raises(Unavailable, match="No space left"):
        lab.sink.commit()


def test_another_tools_change_during_a_commit_is_a_conflict_and_the_next_try_works(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lake.merge

    def late(*arguments) -> None:
        lab.delta().delete("id = 2")
        monkeypatch.setattr(Lake, "merge", real)
        real(*arguments)

    monkeypatch.setattr(Lake, "merge", late)
    lab.stage(changes(ORDERS, (BEFORE, 1, day(1), "a"), (AFTER, 1, day(1), "c")))
    with pytest.raises(Conflict):
        lab.sink.commit()
    assert lab.open(2).cut == cut(1)
    lab.epoch(changes(ORDERS, (BEFORE, 1, day(1), "a"), (AFTER, 1, day(1), "c"), (DELETE, 2, day(2), "b")))
    assert lab.rows() == [(1, day(1), "c")]
