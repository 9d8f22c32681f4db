"""Words are put in order as a stable sort puts them, however many of them share their upper half."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.codec import ascending


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 6000),
    uppers=st.sampled_from([1, 2, 50, 3000, 1 << 16, 1 << 20, 1 << 32]),
    lowers=st.sampled_from([1, 2, 1 << 32]),
    presorted=st.booleans(),
)
def test_the_order_is_that_of_a_stable_sort(seed: int, count: int, uppers: int, lowers: int, presorted: bool) -> None:
    random = np.random.default_rng(seed)
    highest = random.integers(0, 1 << 32, min(uppers, 1 << 16), dtype=np.uint64)  # of the whole range, top bit too
    upper = random.integers(0, uppers, count, dtype=np.uint64)
    upper = highest[upper] if uppers <= len(highest) else upper
    words = (upper << np.uint64(32)) | random.integers(0, lowers, count, dtype=np.uint64)
    if presorted:
        words.sort()
    assert ascending(words).tolist() == np.argsort(words, kind="stable").tolist()


@pytest.mark.parametrize("groups", [3, 2000, 60_000])
def test_rows_of_few_or_many_keys_are_put_in_order(groups: int) -> None:
    random = np.random.default_rng(groups)
    keys = random.integers(0, 1 << 32, groups, dtype=np.uint64)
    words = (random.choice(keys, 100_000) << np.uint64(32)) | random.integers(0, 1 << 32, 100_000, dtype=np.uint64)
    assert np.array_equal(ascending(words), np.argsort(words, kind="stable"))
