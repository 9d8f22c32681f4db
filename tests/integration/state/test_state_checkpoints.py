"""Checkpoints in an object store, and the same state in another number of shards."""

from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_model import Model, keys_of, schema_of, told, weighted

from raypipe.errors import Fenced, RaypipeError, StateLost, Unavailable
from raypipe.state import Cuttings, Limits, Remote, Store, Takeover, checkpoint, restore, shard_of

PAIR = schema_of({"a": pa.int64(), "b": pa.string()}, ["a"])
ONE = schema_of({"c": pa.int64()}, [], "one")
TRACES = (PAIR, ONE)
SMALL = Limits(block_bytes=2_000, slice_bytes=1_000, tier=2, small_rows=16)


def opened(folder: Path, generation: int = 1) -> Store:
    return Store.open(folder, generation=generation, identity="log", traces=TRACES, limits=SMALL)


def restored(remote: Remote, folder: Path, **other: object) -> Store:
    settings: dict[str, object] = {"generation": 1, "identity": "log", "traces": TRACES, "limits": SMALL, **other}
    return restore([remote], folder, **settings)  # type: ignore[arg-type]


@pytest.fixture(params=["file", "memory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    return Remote(f"file://{tmp_path}/saved" if request.param == "file" else f"memory://{uuid.uuid4()}")


def add(store: Store, version: int, model: Model | None = None) -> None:
    rows = [
        ((number if number % 9 else None, f"{version} {number}"), 1)
        for number in range(version * 50, version * 50 + 70)
    ]
    work = store.begin(version - 1 or None)
    work.trace("t").append(weighted(PAIR, rows))
    work.trace("one").append(weighted(ONE, [((version,), version)]))
    work.commit(version, note=f"note {version}")
    store.keep([version - 1])
    store.settle()
    if model is not None:
        model.append(rows)


def test_a_checkpoint_restored_elsewhere_is_the_same_version(remote: Remote, tmp_path: Path) -> None:
    store, model = opened(tmp_path / "a"), Model(PAIR)
    for version in range(1, 8):
        add(store, version, model)
    uploaded = checkpoint(store, 7, remote)
    assert uploaded.version == 7
    other = restored(remote, tmp_path / "b")
    assert other.versions() == (7,)
    assert other.note(7) == "note 7"
    assert other.lineage == store.lineage
    assert told(other.begin(7).trace("t").rows()) == model.all()
    assert told(other.begin(7).trace("one").rows()) == {(number,): number for number in range(1, 8)}
    add(other, 8, model)
    assert told(other.begin(8).trace("t").rows()) == model.all()


def test_a_second_checkpoint_uploads_only_new_runs_and_old_ones_go(remote: Remote, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "a", generation=1, identity="log", traces=TRACES)
    add(store, 1)
    first = checkpoint(store, 1, remote)
    add(store, 2)
    second = checkpoint(store, 2, remote)
    assert first.reused == 0
    assert second.reused == first.runs == second.runs == 2
    for version in range(3, 30):
        add(store, version)
        checkpoint(store, version, remote)
    assert len(remote.list("checkpoints")) == 2
    assert len(remote.list("runs")) <= 2 * 2 * 12


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(remote: Remote, tmp_path: Path) -> None:
    store = opened(tmp_path / "a")
    add(store, 1)
    checkpoint(store, 1, remote)
    before = set(remote.list("runs"))
    add(store, 2)
    checkpoint(store, 2, remote)
    new = sorted(set(remote.list("runs")) - before)[0]
    content = bytearray(remote.get(f"runs/{new}") or b"")
    content[len(content) // 2] ^= 1
    remote.put(f"runs/{new}", bytes(content))
    assert restored(remote, tmp_path / "b").versions() == (1,)
    remote.put("checkpoints/1.1.json", b"nonsense")
    with pytest.raises(StateLost):
        restored(remote, tmp_path / "c")


def test_nothing_is_restored_from_another_log_or_shape(remote: Remote, tmp_path: Path) -> None:
    store = opened(tmp_path / "a")
    add(store, 1)
    checkpoint(store, 1, remote)
    with pytest.raises(StateLost):
        restored(remote, tmp_path / "b", identity="another")
    with pytest.raises(StateLost):
        restored(remote, tmp_path / "b", traces=[schema_of({"a": pa.int32()}, ["a"])])
    with pytest.raises(StateLost):
        restored(remote, tmp_path / "b", version=7)
    only = restored(remote, tmp_path / "b", traces=[ONE])
    assert told(only.begin(1).trace("one").rows()) == {(1,): 1}


def test_an_older_generation_makes_no_checkpoint_over_a_later_one(remote: Remote, tmp_path: Path) -> None:
    old, new = opened(tmp_path / "a", 1), opened(tmp_path / "b", 2)
    add(old, 1)
    add(new, 1)
    checkpoint(new, 1, remote)
    with pytest.raises(Fenced):
        checkpoint(old, 1, remote)


class Flaky:
    """A file system that fails a few times."""

    def __init__(self, inner: object, failures: int) -> None:
        self._inner, self.left = inner, failures

    def __getattr__(self, name: str) -> object:
        if self.left and name in ("pipe_file", "cat_file"):
            self.left -= 1
            raise ConnectionError("https://user:secret@store")
        return getattr(self._inner, name)


def test_a_store_that_fails_a_few_times_is_asked_again_and_then_given_up(tmp_path: Path) -> None:
    waited: list[float] = []
    remote = Remote(f"file://{tmp_path}/saved", wait=waited.append)
    flaky = remote._files = Flaky(remote._files, 4)
    remote.put("runs/x", b"1")
    assert remote.get("runs/x") == b"1"
    assert waited == [0.1, 0.2, 0.4, 0.8]
    flaky.left = 5
    with pytest.raises(Unavailable) as failed:
        remote.put("runs/x", b"2")
    assert "secret" not in f"{failed.value}{failed.value.cause}"


def test_an_address_that_nothing_serves_is_refused_with_the_remedy() -> None:
    with pytest.raises(RaypipeError, match="fsspec driver"):
        Remote("nowhere://bucket")


@settings(max_examples=25)
@given(
    before=st.integers(1, 4),
    after=st.integers(1, 5),
    keys=st.sets(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=60),
)
def test_shards_hold_each_row_once_however_many_they_become(
    before: int, after: int, keys: set[int | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    rows = [((key, "x"), 1) for key in sorted(keys, key=str)]
    model = Model(PAIR)
    model.append(rows)
    table = weighted(PAIR, rows)
    stores = []
    for shard in range(before):
        store = opened(folder / f"{before} {shard}")
        work = store.begin(None)
        mine = shard_of(table, PAIR, before) == shard
        work.trace("t").append(table.filter(pa.array(mine)))
        work.commit(1)
        stores.append(store)
    cuttings = [Cuttings(folder / f"cut {shard}", after) for shard in range(before)]
    for store, cut in zip(stores, cuttings, strict=True):
        cut.cut(store)
        assert cut.left(store) == 0
    takeover = Takeover(stores, cuttings, [1])
    found: dict[object, int] = {}
    for shard in range(after):
        into = opened(folder / f"into {shard}")
        takeover.into(into, shard)
        trace = into.begin(1).trace("t")
        held = told(trace.rows())
        assert not held.keys() & found.keys()
        found |= held
        mine_keys = [(row[0],) for row in held]  # type: ignore[index]
        assert (shard_of(keys_of(PAIR, mine_keys), PAIR, after) == shard).all()
    assert found == model.all()
