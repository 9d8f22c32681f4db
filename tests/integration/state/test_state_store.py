"""A store of state: who may write, what is found damaged, what is refused, what is left on disk."""

from __future__ import annotations

import os
from pathlib import Path

import epochs
import pyarrow as pa
import pytest
from trace_model import Model, keys_of, schema_of, told, weighted

from raypipe import faults
from raypipe.errors import Fenced, InvariantBroken, LimitExceeded, SchemaMismatch, StateLost, Unavailable
from raypipe.state import Limits, Store
from raypipe.state.manifest import block_fields
from raypipe.state.writing import RunFile

PAIR = schema_of({"a": pa.int64(), "b": pa.string()}, ["a"])


def opened(folder: Path, generation: int = 1, **other: object) -> Store:
    settings: dict[str, object] = {"identity": "log", "traces": [PAIR], **other}
    return Store.open(folder, generation=generation, **settings)  # type: ignore[arg-type]


def add(store: Store, after: int | None, version: int, count: int = 10) -> None:
    work = store.begin(after)
    work.trace("t").append(weighted(PAIR, [((number, "x" * 20), 1) for number in range(count)]))
    work.commit(version)


def test_a_lower_generation_can_neither_open_nor_commit(tmp_path: Path) -> None:
    old = opened(tmp_path, 1)
    add(old, None, 1)
    work = old.begin(1)
    new = opened(tmp_path, 2)
    with pytest.raises(Fenced):
        work.commit(2)
    with pytest.raises(Fenced):
        opened(tmp_path, 1)
    add(new, 1, 3)
    with pytest.raises(Unavailable):
        old.begin(1)
    assert opened(tmp_path, 2).versions() == (1, 3)


def test_a_writer_that_slept_through_many_commits_is_fenced(tmp_path: Path) -> None:
    old = opened(tmp_path, 1)
    work = old.begin(None)
    new = opened(tmp_path, 2)
    for version in range(1, 6):
        add(new, version - 1 or None, version)
        new.keep([])
        new.settle()
    assert not (tmp_path / "0000000000000002.commit").exists(), "the name that the old writer takes next is free"
    with pytest.raises(Fenced):
        work.commit(9)
    assert max(opened(tmp_path, 3).versions()) == 5


def test_without_the_fence_a_lower_generation_gets_in(tmp_path: Path) -> None:
    opened(tmp_path, 2)
    faults.arm("mutant.no_fence=skip")
    try:
        opened(tmp_path, 1)
    finally:
        faults.arm("")


def test_a_replayed_commit_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1)
    before = sorted(os.listdir(tmp_path))
    add(store, None, 1)
    assert sorted(os.listdir(tmp_path)) == before
    assert sum(weight for weight in told(store.begin(1).trace("t").rows()).values()) == 10


def test_a_version_that_is_not_kept_says_rebuild(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1)
    add(store, 1, 2)
    store.keep([])
    with pytest.raises(StateLost, match="rebuilt"):
        store.begin(1)
    assert store.versions() == (2,)


def test_work_on_a_version_that_was_forgotten_meanwhile_still_becomes_whole(tmp_path: Path) -> None:
    store = opened(tmp_path, limits=Limits(tier=2, small_rows=4))
    add(store, None, 1)
    work = store.begin(1)
    for version in range(2, 7):
        add(store, version - 1, version)
        store.keep([])
        store.settle()
    work.trace("t").append(weighted(PAIR, [((99, "y"), 1)]))
    work.commit(8)
    store.close()
    store = opened(tmp_path, limits=Limits(tier=2, small_rows=4))
    assert 8 in store.versions()
    assert len(told(store.begin(8).trace("t").rows())) == 11
    store.close()


def test_state_of_something_else_or_of_another_shape_is_forgotten(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1)
    lineage = store.lineage
    assert opened(tmp_path).lineage == lineage
    assert opened(tmp_path, identity="another log").versions() == ()
    store = opened(tmp_path)
    assert store.versions() == ()
    assert store.lineage != lineage
    add(store, None, 1)
    other = schema_of({"a": pa.int32(), "b": pa.string()}, ["a"])
    assert opened(tmp_path, traces=[other]).versions() == ()


def test_a_new_trace_is_empty_in_old_versions_and_one_no_longer_listed_goes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1)
    more = schema_of({"c": pa.int64()}, ["c"], "more")
    store = opened(tmp_path, traces=[PAIR, more])
    assert store.versions() == (1,)
    assert told(store.begin(1).trace("more").rows()) == {}
    store = opened(tmp_path, traces=[more])
    assert store.versions() == (1,)
    assert len(os.listdir(tmp_path)) == 1, "the rows of the trace that is gone are gone"


def test_reset_forgets_everything_and_begins_a_new_lineage(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1)
    lineage = store.lineage
    store.reset()
    assert store.versions() == opened(tmp_path).versions() == ()
    assert store.lineage != lineage


@pytest.mark.parametrize("kind", ["commit", "run"])
def test_every_damaged_byte_that_matters_is_noticed(kind: str, tmp_path: Path) -> None:
    store = opened(tmp_path, limits=Limits(tier=2, small_rows=4))
    for version in range(1, 5):
        add(store, version - 1 or None, version, 20)
        store.keep([])
        if kind == "run":
            store.settle()
    store.close()
    store = opened(tmp_path, limits=Limits(tier=2, small_rows=4))
    right = told(store.begin(4).trace("t").rows())
    store.close()
    files = [path for path in tmp_path.iterdir() if path.suffix == f".{kind}"]
    assert files
    missed = 0
    for path in files:
        whole = path.read_bytes()
        for at in range(0, len(whole), 37):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            missed += not _noticed(tmp_path, right)
            path.write_bytes(whole)
    assert not missed


def _noticed(folder: Path, right: dict[object, int]) -> bool:
    """Whether damage is told, or does no harm; opening leaves a commit of its own, which is removed again."""
    before = set(folder.iterdir())
    kept = {path: path.read_bytes() for path in before}
    store = opened(folder, limits=Limits(tier=2, small_rows=4))
    try:
        if 4 not in store.versions():
            return store.lost is not None
        return told(store.begin(4).trace("t").rows()) == right
    except StateLost:
        return True
    finally:
        store.close()
        for path in set(folder.iterdir()) - before:
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)


@pytest.mark.parametrize("harm", ["remove", "shorten"])
def test_a_lost_or_short_file_takes_only_the_versions_that_need_it(harm: str, tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1)
    add(store, 1, 2)
    store.close()
    newest = tmp_path / "0000000000000003.commit"
    later = opened(tmp_path)
    add(later, 2, 3)
    later.close()
    if harm == "remove":
        newest.unlink()
    else:
        newest.write_bytes(newest.read_bytes()[:100])
    store = opened(tmp_path)
    assert store.versions() == (1,)
    assert store.lost is not None
    assert told(store.begin(1).trace("t").rows())


def test_damage_that_shows_late_is_raised_where_it_is_read(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1)
    store.close()
    path = tmp_path / "0000000000000002.commit"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 4] ^= 1
    path.write_bytes(whole)
    with pytest.raises(StateLost, match="damaged"):
        opened(tmp_path).begin(1).trace("t").probe(keys_of(PAIR, [(1,)]))


def test_state_over_its_bound_is_refused_and_what_is_there_stays(tmp_path: Path) -> None:
    store = opened(tmp_path, limits=Limits(state_bytes=20_000))
    add(store, None, 1)
    with pytest.raises(LimitExceeded, match="state_bytes"):
        add(store, 1, 2, 2_000)
    assert store.versions() == (1,)
    add(store, 1, 2)


def test_a_large_epoch_that_would_pass_the_bound_is_refused_while_it_spills(tmp_path: Path) -> None:
    store = opened(tmp_path, limits=Limits(state_bytes=50_000, spill_bytes=5_000))
    work = store.begin(None)
    rows = weighted(PAIR, [((number, "x" * 20), 1) for number in range(3_000)])
    with pytest.raises(LimitExceeded):
        work.trace("t").append(rows)
    work.abort()
    add(store, None, 1)
    assert len(os.listdir(tmp_path)) == store.files <= 2


def test_a_large_append_that_is_thrown_away_leaves_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path, limits=Limits(spill_bytes=5_000))
    rows = weighted(PAIR, [((number, "x" * 20), 1) for number in range(3_000)])
    with store.begin(None) as work:
        work.trace("t").append(rows)
        work.trace("t").append(rows)
    add(store, None, 1)
    assert len(os.listdir(tmp_path)) == store.files <= 2
    assert store.begin(1).trace("t").count == 10


def test_a_disk_that_fails_behind_a_large_append_fails_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path, limits=Limits(spill_bytes=5_000))
    add(store, None, 1)
    with monkeypatch.context() as patch, store.begin(1) as work:
        patch.setattr(RunFile, "finish", _disk_is_full)
        work.trace("t").append(weighted(PAIR, [((number, "x" * 20), 1) for number in range(3_000)]))
        with pytest.raises(Unavailable, match="full"):
            work.commit(2)
    assert store.versions() == (1,)
    add(store, 1, 2)
    assert store.versions() == (1, 2)
    assert len(os.listdir(tmp_path)) == store.files


def _disk_is_full(file: RunFile, end: bytes = b"") -> None:
    raise Unavailable("The disk is full.")


def test_deleted_rows_leave_the_disk(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, None, 1, 5_000)
    full = store.bytes
    work = store.begin(1)
    work.trace("t").append(weighted(PAIR, [((number, "x" * 20), -1) for number in range(5_000)]))
    work.commit(2)
    for version in range(3, 12):
        store.keep([])
        store.settle()
        add(store, version - 1, version, 1)
    store.keep([])
    store.settle()
    add(store, 11, 12, 1)
    assert store.bytes < full / 10


@pytest.mark.parametrize("weights", [[1], [2], [-1], [1, 0], [1, 3]], ids=str)
def test_many_rows_keep_their_weights_which_take_room_only_where_one_is_not_1(
    weights: list[int], tmp_path: Path
) -> None:
    schema = schema_of({"id": pa.int64()}, ["id"])
    rows = [((number,), weights[number % len(weights)]) for number in range(40_000)]
    store = opened(tmp_path, traces=[schema])
    work = store.begin(None)
    work.trace("t").append(weighted(schema, rows))
    work.commit(1)
    stored = sum(1 for _, weight in rows if weight)
    assert (store.bytes < 20 * stored) == (set(weights) <= {0, 1})
    store.close()
    again = opened(tmp_path, 2, traces=[schema]).begin(1).trace("t")
    assert told(again.rows()) == {row: weight for row, weight in rows if weight}
    keys = [(number,) for number in range(0, 40_000, 7)]
    assert told(again.probe(keys_of(schema, keys))) == {row: weight for row, weight in rows[::7] if weight}


def test_state_that_was_written_before_weights_were_left_out_is_read_and_shrinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = schema_of({"id": pa.int64()}, ["id"])
    rows = [((number,), 1) for number in range(40_000)]
    with monkeypatch.context() as before:
        before.setattr("raypipe.state.manifest.FORMAT", 1)
        before.setattr("raypipe.state.manifest.block_fields", lambda block: block_fields(block)[:-1])
        before.setattr("raypipe.state.writing.count_once", lambda _: False)
        store = opened(tmp_path, traces=[schema])
        work = store.begin(None)
        work.trace("t").append(weighted(schema, rows))
        work.commit(1)
        written = store.bytes
        store.close()
    again = opened(tmp_path, 2, traces=[schema])
    assert again.versions() == (1,)
    for version in range(2, 8):  # enough for all to be merged into one
        more = [((number,), 1) for number in range(version * 40_000, version * 40_000 + 40_000)]
        work = again.begin(version - 1)
        work.trace("t").append(weighted(schema, more))
        work.commit(version)
        again.keep([version])
        again.settle()
        rows += more
    assert told(again.begin(7).trace("t").rows()) == dict(rows)
    assert again.totals()["t"].bytes < 7 * written * 3 / 4


def test_runs_stay_few_however_many_epochs(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for version in range(1, 200):
        add(store, version - 1 or None, version, 3)
        store.keep([version - 1])
    store.settle()
    assert store.totals()["t"].runs <= 8
    store.close()


def test_rows_that_do_not_fit_their_trace_are_refused_without_their_values(tmp_path: Path) -> None:
    trace = opened(tmp_path).begin(None).trace("t")
    with pytest.raises(SchemaMismatch, match="lack the columns b"):
        trace.append(weighted(schema_of({"a": pa.int64()}, []), [((1,), 1)]))
    with pytest.raises(SchemaMismatch) as refused:
        trace.append(weighted(schema_of({"a": pa.string(), "b": pa.string()}, []), [(("secret", ""), 1)]))
    assert "secret" not in f"{refused.value}{refused.value.cause}"
    with pytest.raises(SchemaMismatch):
        Store.open(tmp_path / "x", generation=1, identity="", traces=[schema_of({"_raypipe_place": pa.int64()}, [])])


def test_keys_of_another_type_are_cast_to_the_traces(tmp_path: Path) -> None:
    trace = opened(tmp_path).begin(None).trace("t")
    trace.append(weighted(PAIR, [((1, "x"), 1)]))
    assert trace.probe(pa.table({"a": pa.array([1], pa.int8())})).num_rows == 1
    assert trace.probe(pa.table({"a": pa.array(["1"])})).num_rows == 1


def test_work_ends_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    work = store.begin(None)
    work.commit(1)
    work.abort()
    with pytest.raises(InvariantBroken):
        work.commit(2)
    with pytest.raises(InvariantBroken):
        store.begin(1).commit(1)
    store.close()
    with pytest.raises(InvariantBroken):
        store.begin(1)


def test_different_rows_of_one_place_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash so poor that everything collides."""
    monkeypatch.setattr("raypipe.codec.rowhash._mix", lambda words: words.__iand__(words.dtype.type(0x1_0000_0001)))
    rows = [((number % 50 if number % 7 else None, f"text {number % 5}"), number % 3 - 1) for number in range(500)]
    model = Model(PAIR)
    model.append(rows)
    store = opened(tmp_path)
    work = store.begin(None)
    for begin in range(0, 500, 100):
        work.trace("t").append(weighted(PAIR, rows[begin : begin + 100]))
    work.commit(1)
    trace = store.begin(1).trace("t")
    assert told(trace.rows()) == model.all()
    keys = [(1,), (None,), (14,), (99,)]
    assert told(trace.probe(keys_of(PAIR, keys))) == model.probe(keys)


def test_the_epochs_of_the_crash_tests_hold_what_they_should(tmp_path: Path) -> None:
    store = epochs.opened(tmp_path, 1)
    for version in range(1, epochs.LAST + 1):
        epochs.carry(store, version)
    for version in store.versions():
        for name, model in epochs.should_hold(version).items():
            assert told(store.begin(version).trace(name).rows()) == model.all()
    store.close()


def test_columns_of_other_layouts_are_stored_as_plain_ones(tmp_path: Path) -> None:
    layouts = schema_of(
        {"a": pa.string_view(), "b": pa.dictionary(pa.int8(), pa.string()), "c": pa.binary_view()}, ["a"]
    )
    store = opened(tmp_path, traces=[layouts])
    work = store.begin(None)
    trace = work.trace("t")
    rows = pa.table(
        {
            "a": pa.array(["x", "y"]).cast(pa.string_view()),
            "b": pa.array(["p", None]).dictionary_encode(),
            "c": pa.array([b"1", b"2"]).cast(pa.binary_view()),
            "_raypipe_weight": pa.array([1, 1]),
        }
    )
    trace.append(rows)
    trace.append(rows)
    work.commit(1)
    assert told(store.begin(1).trace("t").probe(rows)) == {("x", "p", b"1"): 2, ("y", None, b"2"): 2}
    store.close()


def test_many_small_appends_are_few_runs_to_probe(tmp_path: Path) -> None:
    store = opened(tmp_path)
    trace = store.begin(None).trace("t")
    for number in range(300):
        trace.append(weighted(PAIR, [((number, "x"), 1)]))
    assert trace.count == 300
    assert len(trace.added) <= 10
    store.close()
