"""What survives when log files go, disks fill and others work on the table; and what large or many epochs cost."""

from __future__ import annotations

import random
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from delta_lab import (
    AFTER,
    BAG,
    BEFORE,
    DELETE,
    INSERT,
    KEY_ONLY,
    ORDERS,
    READ,
    TRUNCATE,
    Lab,
    Row,
    changes,
    cut,
    day,
    in_history,
    relation,
    sink_table,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import Corrupt, InvariantBroken, SchemaMismatch, Unavailable
from raypipe.model import Epoch
from raypipe.sinks.delta import stage, upkeep
from raypipe.sinks.delta.stage import STAGE_FOLDER


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, sink_table())
    lab.open()
    lab.epoch(changes(ORDERS, (TRUNCATE,), (READ, 1, day(1), "a")))
    return lab


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100 bytes: what a full disk looks like without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_the_table_knows_of_raypipe_survives_the_loss_of_all_log_files_before_a_checkpoint(tmp_path: Path) -> None:
    table = sink_table(relation({"id": pa.int64()}, key=["id"], branches=70))
    lab = Lab(tmp_path, table)
    lab.open(1)
    lab.epoch(changes(table.schema, *((TRUNCATE, branch) for branch in range(70) if branch not in (0, 33, 69))))
    lab.delta().alter.set_table_description("somebody else's commit")
    lab.delta().create_checkpoint()
    for path in sorted((lab.path / "_delta_log").glob("*.json"))[:-1]:
        path.unlink()
    committed = lab.open(2)
    assert committed.cut is not None
    assert (committed.cut.number, committed.cut.log, dict(committed.cut.offsets)) == (1, "", {})
    assert committed.tables["orders"].awaiting == {0, 33, 69}
    assert committed.tables["orders"].view == "v1"


def test_the_whole_cut_is_told_while_the_log_has_it(lab: Lab) -> None:
    lab.delta().optimize.compact()
    assert lab.open(2).cut == cut(1)
    assert lab.held().cut == cut(1)


def test_a_full_disk_is_one_sentence_and_the_epoch_can_be_done_again(lab: Lab, request: pytest.FixtureRequest) -> None:
    lab.stage(changes(ORDERS, (INSERT, 2, day(2), "b")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    request.getfixturevalue("full_disk")
    with pytest.raises(Unavailable, match=r"cannot use .*: File too large"):
        lab.sink.commit()
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert lab.open(2).cut == cut(1)
    lab.epoch(changes(ORDERS, (INSERT, 2, day(2), "b")))
    assert lab.rows() == [(1, day(1), "a"), (2, day(2), "b")]


def test_a_disk_that_fills_while_an_epoch_is_staged_is_one_sentence(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(stage, "MEMORY_BYTES", 1)
    request.getfixturevalue("full_disk")
    with pytest.raises(Unavailable, match=r"cannot use .*: File too large"):
        lab.stage(*[changes(ORDERS, (INSERT, 2, day(2), "b"))] * 3)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lab = Lab(tmp_path / "file" / "lake", sink_table())
    with pytest.raises(Unavailable, match="Not a directory"):
        lab.open()


def test_a_damaged_log_is_one_sentence(lab: Lab) -> None:
    (lab.path / "_delta_log" / "00000000000000000001.json").write_text("{broken")
    with pytest.raises(Unavailable, match="cannot read or write"):
        lab.open(2)


def test_a_table_of_another_pipeline_is_refused(lab: Lab) -> None:
    other = Lab(lab.folder, sink_table(name="orders"))
    other.another_sink = lambda: type(lab.sink)(  # type: ignore[method-assign]
        sink="lake", pipeline="other", path=lab.path, table=lab.table
    )
    with pytest.raises(SchemaMismatch, match="belongs to raypipe/shop/lake/orders"):
        other.open()


def test_files_that_are_no_delta_table_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "letters.txt").write_text("mine")
    with pytest.raises(SchemaMismatch, match="did not make"):
        Lab(tmp_path, sink_table()).open()


def test_an_epoch_that_would_leave_a_gap_is_refused(lab: Lab) -> None:
    with pytest.raises(InvariantBroken, match="holds cut 1"):
        lab.sink.begin(Epoch(after=cut(3), upto=cut(4), generation=1))


def test_rows_that_somebody_removed_are_missed_when_a_copy_of_them_goes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, sink_table(BAG))
    lab.open()
    lab.epoch(changes(BAG, (TRUNCATE,), (READ, 1, day(1), "a"), (READ, 2, day(1), "b")))
    lab.delta().delete("id = 1")
    with pytest.raises(Corrupt, match="somebody else"):
        lab.epoch(changes(BAG, (DELETE, 1, day(1), "a")))


def test_other_tools_may_tidy_the_table_while_an_epoch_is_staged(lab: Lab) -> None:
    lab.stage(changes(ORDERS, (INSERT, 2, day(2), "b")))
    lab.delta().optimize.compact()
    lab.delta().vacuum(dry_run=False)
    lab.delta().optimize.z_order(["id"])
    assert lab.sink.commit().cut == cut(2)
    assert lab.rows() == [(1, day(1), "a"), (2, day(2), "b")]


def test_many_epochs_leave_few_files_and_a_short_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "COMPACT_EVERY", 10)
    monkeypatch.setattr(upkeep, "VACUUM_EVERY", 20)
    lab = Lab(tmp_path, in_history(sink_table()))
    lab.open()
    nothing = "interval 0 seconds"
    lab.delta().alter.set_table_properties(
        {"delta.deletedFileRetentionDuration": nothing, "delta.logRetentionDuration": nothing}
    )
    lab.epoch(changes(ORDERS, (TRUNCATE,)))
    for number in range(40):
        lab.epoch(changes(ORDERS, (INSERT, number, day(1), "a")))
    assert len(lab.delta().file_uris()) < 15
    assert len(list(lab.path.glob("*.parquet"))) < 30
    assert len(list((lab.path / "_delta_log").glob("*.json"))) < 20
    assert lab.open(2).cut == cut(41)
    assert sum(row[5] is not None for row in lab.rows()) == 40
    assert not (lab.path / STAGE_FOLDER).exists()


def test_staged_files_are_removed_by_commit_abort_close_and_the_next_opening(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MEMORY_BYTES", 1)

    def files() -> list[Path]:
        return [path for path in (lab.path / STAGE_FOLDER).rglob("*") if path.is_file()]

    more = [changes(ORDERS, (INSERT, number, day(2), "b")) for number in range(10, 14)]
    for leave in (lab.sink.commit, lab.sink.abort, lab.sink.close):
        lab.stage(*more)
        assert files()
        lab.at += leave == lab.sink.commit
        leave()
        assert not files()
    lab.open(2)
    lab.stage(*more)
    lab.open(3)
    assert not files()


class Oracle:
    """Random changes and the rows that are left, over several partitions."""

    def __init__(self, dice: random.Random, keyed: bool) -> None:
        self.dice = dice
        self.keyed = keyed
        self.rows: Counter[Row] = Counter()

    def row(self, key: int | None = None) -> Row:
        dice = self.dice
        return (
            dice.choice([None, *range(12)]) if key is None else key,
            day(dice.choice([None, 0, 1, 2])),
            dice.choice([None, "", "a", "b"]),
        )

    def changes(self, count: int) -> list[Row]:
        made: list[Row] = []
        for _ in range(count):
            made += self.change()
        return made

    def change(self) -> list[Row]:
        dice, present = self.dice, sorted(self.rows.elements(), key=repr)
        if dice.random() < 0.03:
            self.rows.clear()
            return [(TRUNCATE,)]
        if present and dice.random() < 0.6:
            old = dice.choice(present)
            self.rows[old] -= 1
            self.rows += Counter()
            if dice.random() < 0.4:
                return [(DELETE, old[0], KEY_ONLY) if self.keyed and dice.random() < 0.5 else (DELETE, *old)]
            new = self.put()
            if self.keyed and new[0] == old[0] and dice.random() < 0.5:
                return [(AFTER, *new)]
            return [(BEFORE, *old), (AFTER, *new)]
        return [(dice.choice([INSERT, AFTER, READ]) if self.keyed else INSERT, *self.put())]

    def put(self) -> Row:
        """Adds a row whose key is not there."""
        row = self.row()
        while self.keyed and any(row[0] == other[0] for other in self.rows):
            row = self.row(self.dice.randrange(1000))
        self.rows[row] += 1
        return row


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    keyed=st.booleans(),
    partitioned=st.booleans(),
    memory_bytes=st.sampled_from([1, 2000, 64 << 20]),
)
def test_any_epochs_of_any_size_leave_the_rows_of_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, seed: int, keyed: bool, partitioned: bool, memory_bytes: int
) -> None:
    dice = random.Random(seed)
    schema = ORDERS if keyed else BAG
    lab = Lab(tmp_path_factory.mktemp("lake"), sink_table(schema, partition_by=("day",) if partitioned else ()))
    oracle = Oracle(dice, keyed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "MEMORY_BYTES", memory_bytes)
        patch.setattr(stage, "BUCKETS", 3)
        lab.open()
        lab.epoch(changes(schema, (TRUNCATE,)))
        for generation in range(2, 7):
            lab.epoch(*(changes(schema, *oracle.changes(dice.randrange(1, 15))) for _ in range(dice.randrange(4))))
            assert lab.rows() == sorted(oracle.rows.elements(), key=repr)
            if dice.random() < 0.2:
                lab.open(generation)
