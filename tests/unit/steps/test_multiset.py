"""Adding up weighted rows: many of them by their hashes, which never decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from raypipe.contracts import WEIGHT, WEIGHT_FIELD
from raypipe.plan.sandbox import Sandbox
from raypipe.steps.views.multiset import Multiset

COLUMNS = pa.schema([("number", pa.int64()), ("text", pa.string())])
# Above the sizes from which rows and keys are hashed.
MANY, FEW = 12_000, 300


@pytest.fixture(params=["good hash", "poor hash"])
def multiset(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Multiset]:
    if request.param == "poor hash":
        monkeypatch.setattr("raypipe.codec.rowhash._mix", lambda words: words.__iand__(words.dtype.type(7)))
    with closing(Sandbox()) as sandbox:
        yield Multiset(sandbox)


def _rows(count: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    numbers = pa.array(random.integers(0, count // 2, count), mask=random.random(count) < 0.05)
    texts = pa.array(random.choice(["", "a", "ä", "longer than eight bytes"], count), mask=random.random(count) < 0.05)
    weights = pa.array(random.integers(-1, 3, count))
    whole = pa.table([numbers, texts, weights], schema=pa.schema([*COLUMNS, WEIGHT_FIELD]))
    return pa.concat_tables([whole.slice(0, count // 3), whole.slice(count // 3)])


@pytest.mark.parametrize("count", [MANY, FEW])
def test_equal_rows_come_once_with_the_sum_of_their_weights(multiset: Multiset, count: int) -> None:
    rows = _rows(count, 1)
    wanted: Counter[tuple[object, object]] = Counter()
    for row in rows.to_pylist():
        wanted[row["number"], row["text"]] += row[WEIGHT]
    told = [((row["number"], row["text"]), row[WEIGHT]) for row in multiset.total(COLUMNS, [rows]).to_pylist()]
    assert len(dict(told)) == len(told)
    assert dict(told) == {row: weight for row, weight in wanted.items() if weight}


@pytest.mark.parametrize("names", [["number"], ["number", "text"]])
def test_the_last_row_of_each_key_is_found_and_each_key_is_told(multiset: Multiset, names: list[str]) -> None:
    rows = _rows(MANY, 2)
    last = {tuple(row[name] for name in names): place for place, row in enumerate(rows.to_pylist())}
    assert multiset.last(rows, names).tolist() == sorted(last.values())
    wanted = {repr({f"k{i}": each for i, each in enumerate(key)}) for key in last}
    assert set(map(repr, multiset.keys([(rows, names)]).to_pylist())) == wanted
    several = multiset.keys([(rows, names)], probes=2).to_pylist()
    assert sorted(map(repr, several)) == sorted(wanted), "many keys for several traces are there once"
