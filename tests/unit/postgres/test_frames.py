"""Messages are found by guessing, and what is found is what hopping from one to the next would find."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raypipe_wire_messages import message

from raypipe.errors import Corrupt
from raypipe.sources.postgres.frames import PADDING_BYTES, find_messages

# Bytes that look like the beginning of a message, to mislead whoever guesses.
MISLEADING = st.sampled_from([b"d\0\0\0\x20w", b"d", b"w", b"d\0\0\0\4w", b"dddddwwwww", b"d\xff\xff\xff\xffw"])
PAYLOADS = st.lists(st.one_of(MISLEADING, st.binary(max_size=40)), max_size=8).map(b"".join)
MESSAGES = st.lists(
    st.one_of(
        PAYLOADS.map(lambda payload: message(b"d", b"w" + payload)),
        st.tuples(st.sampled_from([b"d", b"N", b"S", b"E", b"c"]), PAYLOADS).map(lambda part: message(*part)),
    ),
    max_size=30,
)


def buffer_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(PADDING_BYTES), np.uint8)


def hopped(data: bytes, first: int, end: int) -> tuple[list[int], int]:
    at, found = first, []
    while at + 5 <= end:
        size = struct.unpack_from("!i", data, at + 1)[0] + 1
        if at + size > end:
            break
        found.append(at)
        at += size
    return found, at


@given(MESSAGES, st.data())
def test_what_is_found_is_what_hopping_finds_wherever_the_bytes_end(messages, draw):
    before = draw.draw(st.binary(max_size=70))
    data = before + b"".join(messages)
    end = draw.draw(st.integers(len(before), len(data)))
    found, after = find_messages(buffer_of(data), len(before), end, b"w")
    assert (found.tolist(), after) == hopped(data, len(before), end)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_long_runs_are_found_over_the_blocks_that_are_compared(seed, mean_bytes):
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 2 * mean_bytes, 3_000)
    letters = np.frombuffer(b"dw\0 abc", np.uint8)
    data = b"".join(message(b"d", b"w" + random.choice(letters, size).tobytes()) for size in sizes.tolist())
    found, after = find_messages(buffer_of(data), 0, len(data), b"w")
    assert (found.tolist(), after) == hopped(data, 0, len(data))


def test_a_run_is_found_whatever_stands_in_its_rows():
    data = b"".join(message(b"d", b"w" + b"d\0\0\0\x14w" * 20) for _ in range(5_000))
    found, after = find_messages(buffer_of(data), 0, len(data), b"w")
    assert (found.tolist(), after) == hopped(data, 0, len(data))


def test_large_messages_are_found():
    data = b"".join(message(b"d", b"w" + bytes(size)) for size in (10_000, 3, 70_000, 0, 2_047, 2_048))
    found, after = find_messages(buffer_of(data), 0, len(data), b"w")
    assert (found.tolist(), after) == hopped(data, 0, len(data))


@pytest.mark.parametrize("length", [-1, 0, 3, -(2**31)])
@pytest.mark.parametrize("before", [0, 1, 1_000])
def test_a_length_that_cannot_be_is_corrupt(length, before):
    data = message(b"d", b"w" + bytes(40)) * before + b"d" + struct.pack("!i", length) + b"w" + bytes(100)
    with pytest.raises(Corrupt, match="cannot be"):
        find_messages(buffer_of(data), 0, len(data), b"w")
