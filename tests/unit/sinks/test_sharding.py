"""Which shard a key lives in may never change: these numbers are pinned for ever."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import SchemaMismatch
from raypipe.model import OP, Op
from raypipe.sinks.sharding import Shard, shard_of

MANY = 2**62  # so many shards that the shard shows nearly the whole hash


def shard(value, arrow):
    return int(shard_of(pa.record_batch({"k": pa.array([value], arrow)}), ["k"], MANY)[0])


def mix(x):
    mask = 2**64 - 1
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & mask
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def documented_shard(value):
    """The formula in the module's first lines, one value at a time."""
    mask = 2**64 - 1
    if value is None:
        h = 0x9E3779B97F4A7C15
    elif isinstance(value, int) and abs(value) < 10**18:
        h = mix(value & mask)
    else:
        data = value if isinstance(value, bytes) else str(value).encode()
        terms = ((byte + 1) * pow(0x100000001B3, place, 2**64) for place, byte in enumerate(data, 1))
        h = mix((len(data) ^ sum(terms)) & mask)
    return mix(h) % MANY


@given(st.none() | st.integers(-(2**63), 2**63 - 1))
def test_an_integer_lives_where_the_formula_says(value):
    assert shard(value, pa.int64()) == documented_shard(value)


@given(st.none() | st.text(max_size=40) | st.binary(max_size=40))
def test_text_lives_where_the_formula_says(value):
    assert shard(value, pa.binary() if isinstance(value, bytes) else pa.string()) == documented_shard(value)


@pytest.mark.parametrize(
    ("value", "arrow", "place"),
    [
        (None, pa.int64(), 2),
        (0, pa.int64(), 0),
        (1, pa.int64(), 1),
        (-7, pa.int32(), 3),
        ("", pa.string(), 0),
        ("naïve", pa.string(), 5),
        (b"\0", pa.binary(), 3),
        (Decimal("1.50"), pa.decimal128(10, 2), 6),
        (1.5, pa.float64(), 5),
        (True, pa.bool_(), 1),
        (20_000, pa.date32(), 3),
        (1_763_900_000_123_456, pa.timestamp("us"), 3),
    ],
    ids=str,
)
def test_keys_stay_where_they_have_always_been(value, arrow, place):
    assert shard_of(pa.record_batch({"k": pa.array([value], arrow)}), ["k"], 7).tolist() == [place]


@pytest.mark.parametrize("value", [0, 7, -7, 127])
def test_a_number_keeps_its_place_when_its_column_is_widened(value):
    types = [pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.decimal128(12, 0), pa.decimal128(38, 9)]
    values = [Decimal(value) if pa.types.is_decimal(arrow) else value for arrow in types]
    assert len({shard(value, arrow) for value, arrow in zip(values, types, strict=True)}) == 1


def test_large_numbers_keep_their_place_too():
    for value in (10**18, 2**63 - 1):
        places = {shard(value, pa.int64()), shard(value, pa.uint64()), shard(Decimal(value), pa.decimal128(30, 5))}
        assert len(places) == 1
    assert shard(Decimal("1.50"), pa.decimal128(10, 2)) == shard(Decimal("1.5"), pa.decimal128(20, 8))
    assert shard(0.1, pa.float64()) != shard(0.2, pa.float64())


def test_layout_and_slicing_make_no_difference():
    text = pa.array(["x", "ab", None, "", "ab"])
    plain = shard_of(pa.record_batch({"k": text}), ["k"], MANY)
    for other in (text.dictionary_encode(), text.cast(pa.large_string()), text.cast(pa.binary())):
        assert shard_of(pa.record_batch({"k": other}), ["k"], MANY).tolist() == plain.tolist()
    assert shard_of(pa.record_batch({"k": text.slice(1, 3)}), ["k"], MANY).tolist() == plain[1:4].tolist()
    assert shard_of(pa.record_batch({"k": text.slice(0, 0)}), ["k"], MANY).tolist() == []


def test_equal_floats_live_together():
    assert shard(0.0, pa.float64()) == shard(-0.0, pa.float64()) == shard(0, pa.int64())
    assert shard(math.nan, pa.float64()) == shard(-math.nan, pa.float64())
    assert shard(math.inf, pa.float64()) != shard(-math.inf, pa.float64())


def test_the_order_of_key_columns_counts():
    batch = pa.record_batch({"a": pa.array([1]), "b": pa.array([2])})
    assert shard_of(batch, ["a", "b"], MANY).tolist() != shard_of(batch, ["b", "a"], MANY).tolist()


@pytest.mark.parametrize("arrow", [pa.int64(), pa.string()], ids=str)
def test_keys_are_spread_evenly(arrow):
    keys = pa.array(np.arange(30_000)).cast(arrow)
    counts = np.bincount(shard_of(pa.record_batch({"k": keys}), ["k"], 6))
    assert counts.min() > 4_700
    assert counts.max() < 5_300


def test_a_key_no_store_holds_is_refused():
    with pytest.raises(SchemaMismatch, match="k"):
        shard_of(pa.record_batch({"k": pa.array([[1]])}), ["k"], 2)


@pytest.mark.parametrize("key", [["k"], []], ids=["key", "no key"])
def test_every_row_is_a_stray_in_all_shards_but_its_own(key):
    rows = pa.record_batch({"k": pa.array(range(100)), OP: pa.array([Op.INSERT] * 99 + [Op.TRUNCATE], pa.int8())})
    strays = [Shard(index=index, count=3).strays(rows, key)["k"].to_pylist() for index in range(3)]
    assert sorted(number for found in strays for number in found) == sorted([*range(99)] * 2)
    assert key or strays[0] == []
    assert Shard(index=0, count=1).strays(rows, key).num_rows == 0
