"""What a restarted Debezium tells again is left out, and nothing else."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from raypipe.sources.debezium.parse import Phase
from raypipe.sources.debezium.repeats import Seen, sift

# (end of the transaction before, LSN, time of the commit)
Place = tuple[int, int, int]
STREAM: list[Place] = [(-1, 11, 1), (-1, 12, 1), (20, 15, 2), (20, 15, 2), (20, 15, 2), (30, 31, 3), (40, 33, 4)]


def chunk(places: list[Place], first: int = 0, phase: Phase = Phase.STREAM, ordinals: list[int] | None = None):
    count = len(places)
    behind, lsn, time = zip(*places, strict=True)
    return pa.table(
        {
            "offset": pa.array(range(first, first + count), pa.int64()),
            "op": pa.array([ord("c")] * count, pa.int32()),
            "key": pa.array([b"k"] * count, pa.binary()),
            "phase": pa.array([phase] * count, pa.int8()),
            "behind": pa.array(behind, pa.int64()),
            "lsn": pa.array(lsn, pa.int64()),
            "ordinal": pa.array(ordinals or [None] * count, pa.int64()),
            "time": pa.array(time, pa.int64()),
        }
    )


def kept(*chunks: pa.Table) -> list[bool]:
    seen: Seen | None = None
    found: list[bool] = []
    for rows in chunks:
        flags, seen = sift(seen, rows)
        seen = None if seen is None else Seen.of_parts(seen.parts())
        found += flags.tolist()
    return found


@pytest.mark.parametrize(("stop", "back"), [(s, b) for s in range(1, len(STREAM) + 1) for b in range(s)])
def test_what_comes_again_is_left_out_wherever_the_connector_stopped_and_went_back_to(stop: int, back: int) -> None:
    told = kept(chunk(STREAM[:stop] + STREAM[back:]))
    assert told[:stop] == [True] * stop
    if STREAM[back] == STREAM[stop - 1]:
        assert told.count(True) >= len(STREAM)  # only an ordinal would show it; never is one too few
    else:
        assert told[stop:] == [number >= stop for number in range(back, len(STREAM))]


def test_a_row_that_comes_again_right_behind_itself_shows_by_its_ordinal() -> None:
    places = [(20, 15, 2)] * 5
    assert kept(chunk(places, ordinals=[1, 2, 2, 3, 4])) == [True, True, False, True, True]
    assert kept(chunk(places[:2], ordinals=[1, 2]), chunk(places[2:], 2, ordinals=[2, 3, 4])) == [
        *(True, True),
        *(False, True, True),
    ]


def test_splitting_a_chunk_changes_nothing(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        told: list[Place] = []
        while len(told) < 30:
            begin = chance.randrange(len(STREAM))
            told += STREAM[begin : chance.randrange(begin, len(STREAM)) + 1]
        whole = chunk(told)
        cuts = sorted({0, len(told), *(chance.randrange(len(told)) for _ in range(4))})
        parts = [whole.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
        assert kept(*parts) == kept(whole)


def test_behind_a_hole_in_the_offsets_only_what_was_read_behind_it_counts() -> None:
    """Compaction may have left the repeat alone."""
    thinned = chunk([(40, 33, 4)], 7)
    assert kept(thinned, chunk([(20, 15, 2)], 9)) == [True, True]
    assert kept(thinned, chunk([(20, 15, 2), (40, 33, 4)], 8)) == [True, True, False]


def test_a_database_that_was_restored_elsewhere_is_no_repetition() -> None:
    assert kept(chunk(STREAM), chunk([(5, 6, 100), (7, 8, 101), (5, 6, 100)], len(STREAM))) == [
        *[True] * len(STREAM),
        *(True, True, False),
    ]


def test_a_snapshot_begins_anew() -> None:
    snapshot = chunk([(-1, 50, 9)] * 2, len(STREAM), Phase.SNAPSHOT)
    after = chunk([(-1, 11, 1), (20, 15, 2)], len(STREAM) + 2)
    assert all(kept(chunk(STREAM), snapshot, after))


def test_the_tombstone_of_a_delete_that_was_left_out_is_left_out() -> None:
    rows = chunk([*STREAM, STREAM[-1], STREAM[-1]], ordinals=[*range(1, 8), 7, 7])
    ops = np.array([*[ord("c")] * 6, ord("d"), ord("d"), 0], np.int32)
    rows = rows.set_column(1, "op", pa.array(ops))
    phases = pa.array([*[Phase.STREAM] * 8, Phase.OTHER], pa.int8())
    rows = rows.set_column(3, "phase", phases)
    assert kept(rows) == [*[True] * 7, False, False]
    assert kept(rows.slice(0, 8), rows.slice(8)) == [*[True] * 7, False, False]
