"""Answers from the runs of a trace: the rows of some keys, or all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from raypipe.codec import ascending, certainly_equal, comparable, one_batch, taken
from raypipe.codec.rowequal import Flags
from raypipe.codec.rowhash import Words
from raypipe.contracts import TraceSchema
from raypipe.state.equality import among
from raypipe.state.limits import Limits
from raypipe.state.order import fit, merge, places_of, stored_schema
from raypipe.state.places import LOWER_HALF, first_places
from raypipe.state.run import Run

HIGHEST = (1 << 64) - 1


def probe(runs: Sequence[Run], keys: pa.Table, schema: TraceSchema) -> pa.RecordBatch:
    """Stored rows of the keys, sorted, each once."""
    names = list(schema.key)
    wanted = fit(keys, pa.schema([schema.columns.field(name) for name in names]), schema.name)
    if not keys.num_rows or not runs:
        return empty(schema)
    if not names:
        parts = [part for run in runs for part in run.between(0, HIGHEST)]
        return merge(parts, schema) if parts else empty(schema)
    batch = one_batch(wanted)
    firsts = first_places(batch, names)
    order = ascending(firsts)
    parts = rows_of(runs, taken(batch, order), firsts[order], names)
    if not parts:
        return empty(schema)
    return parts[0] if len(parts) == 1 else merge(parts, schema)


def rows_of(runs: Sequence[Run], keys: pa.RecordBatch, firsts: Words, names: list[str]) -> list[pa.RecordBatch]:
    """Stored rows of the keys, those of each run by themselves.

    Args:
        runs: To look in.
        keys: In the order of their places; one may be there several times.
        firsts: Lowest place of each.
        names: Of the key's columns.
    """
    begins = np.ones(len(firsts), np.bool_)
    begins[1:] = firsts[1:] != firsts[:-1]
    # Whether each hash stands for one key that Arrow can compare, so that a row with another one is of no key.
    distinct, told_apart = keys, comparable(keys.select(names).schema)
    if not begins.all():
        again = np.flatnonzero(~begins)
        told_apart &= bool(certainly_equal(taken(keys, again), taken(keys, again - 1), names).all())
        distinct = taken(keys, np.flatnonzero(begins))
    parts = []
    for run in runs:
        for candidates, which in run.find(firsts if distinct is keys else firsts[begins]):
            certain = certainly_equal(candidates, taken(distinct, which), names)
            if not (told_apart or certain.all()):
                certain = _settled(candidates, certain, keys, firsts, names)
            rows = candidates if certain.all() else candidates.filter(pa.array(certain))
            if rows.num_rows:
                parts.append(rows)
    return parts


def _settled(rows: pa.RecordBatch, certain: Flags, keys: pa.RecordBatch, firsts: Words, names: list[str]) -> Flags:
    """Whether the rows belong to a key, where several have one hash, or Arrow cannot compare."""
    doubtful = np.flatnonzero(~certain)
    doubted = taken(rows, doubtful)
    begins = np.searchsorted(firsts, places_of(doubted) & ~LOWER_HALF)
    counts = np.searchsorted(firsts, places_of(doubted) | LOWER_HALF) - begins
    row = np.repeat(np.arange(len(doubtful)), counts)
    candidates = keys.take(pa.array(np.arange(len(row)) + np.repeat(begins - (np.cumsum(counts) - counts), counts)))
    equal = certainly_equal(doubted.take(pa.array(row)), candidates, names)
    settled = certain.copy()
    settled[doubtful[row[equal]]] = True
    if not comparable(doubted.select(names).schema):
        doubtful = np.flatnonzero(~settled)
        settled[doubtful] = among(taken(rows, doubtful), candidates, names)
    return settled


def empty(schema: TraceSchema) -> pa.RecordBatch:
    """No stored rows."""
    return pa.RecordBatch.from_pylist([], schema=stored_schema(schema.columns))


def merged(
    runs: Sequence[Run], schema: TraceSchema, limits: Limits, low: int = 0, high: int = HIGHEST
) -> Iterator[pa.RecordBatch]:
    """All stored rows with places from ``low`` to ``high`` in order, each once, in batches of about ``slice_bytes``."""
    for begin, end in _slices(runs, limits, low, high):
        parts = [part for run in runs for part in run.between(begin, end)]
        if len(parts) == 1:
            yield parts[0]
        elif parts:
            rows = merge(parts, schema)
            if rows.num_rows:
                yield rows


def _slices(runs: Sequence[Run], limits: Limits, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Ranges of places that hold about ``slice_bytes`` each: places are hashes, so the largest run tells for all."""
    if not runs:
        return
    largest = max(runs, key=lambda run: run.rows)
    bytes_in_all = sum(run.bytes for run in runs)
    step = max(1, largest.rows * limits.slice_bytes // max(1, bytes_in_all))
    begin = low
    for bound in _bounds(largest, step, low, high):
        yield begin, bound - 1
        begin = bound
    yield begin, high


def _bounds(run: Run, step: int, low: int, high: int) -> Iterator[int]:
    last = low
    for block in run.blocks:
        if block.last < low or block.first > high:
            continue
        at: Words = places_of(block.read())
        for place in [block.first, *at[step::step].tolist()]:
            # Rows of one place stay together, or equal ones would not meet.
            if last < place <= high:
                yield place
                last = place
