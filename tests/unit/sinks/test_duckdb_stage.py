"""The stage of an epoch: each key comes out once, with its last row, however often it went in."""

import numpy as np
import pyarrow as pa
import pytest

from raypipe.sinks.duckdb import stage
from raypipe.sinks.duckdb.stage import Replacement, Stage


@pytest.mark.parametrize("apply_rows", [50, 1_000_000])
def test_each_key_comes_out_once_as_it_was_left(tmp_path, monkeypatch, apply_rows):
    monkeypatch.setattr(stage, "APPLY_ROWS", apply_rows)
    random = np.random.default_rng(7)
    kept, expected = Stage(tmp_path, ["id"]), {}
    for turn in range(30):
        ids = random.permutation(20_000)[:1_000]
        present, absent = ids[:700], ids[700:]
        upserts = pa.table({"id": present, "v": np.full(700, turn)})
        kept.add(Replacement(upserts=upserts, deletes=pa.table({"id": absent})))
        expected |= dict.fromkeys(present.tolist(), turn) | dict.fromkeys(absent.tolist())
    given = {}
    for each in kept.take():
        pairs = list(zip(each.upserts["id"].to_pylist(), each.upserts["v"].to_pylist(), strict=True))
        pairs += [(key, None) for key in each.deletes["id"].to_pylist()]
        assert not given.keys() & {key for key, _ in pairs}
        assert len(dict(pairs)) == len(pairs)
        given |= dict(pairs)
    kept.close()
    assert given == expected


def test_a_single_replacement_touches_no_disk(tmp_path):
    kept = Stage(tmp_path / "missing", ["id"])
    only = Replacement(upserts=pa.table({"id": [1]}), deletes=pa.table({"id": [2]}))
    kept.add(only)
    assert list(kept.take()) == [only]
