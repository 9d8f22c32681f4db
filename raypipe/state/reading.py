"""Answers from the runs of a trace: the rows of some keys, or all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from raypipe.contracts import TraceSchema
from raypipe.state.equality import Flags, among, certainly_equal
from raypipe.state.limits import Limits
from raypipe.state.order import fit, merge, places_of, stored_schema
from raypipe.state.places import LOWER_HALF, Words, first_places
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
    batch = _one_batch(wanted)
    firsts = first_places(batch, names)
    order = np.argsort(firsts, kind="stable")
    firsts, batch = firsts[order], batch.take(pa.array(order))
    begins = np.concatenate(([True], firsts[1:] != firsts[:-1]))
    fresh = np.flatnonzero(begins)
    distinct = batch.take(pa.array(fresh))
    # Whether each hash stands for one key, so that a row with another one is of no key.
    told_apart = certainly_equal(batch, distinct.take(pa.array(np.cumsum(begins) - 1)), names).all()
    parts = []
    for run in runs:
        for candidates, which in run.find(firsts[fresh]):
            certain = certainly_equal(candidates, distinct.take(pa.array(which)), names)
            rows = candidates
            if not certain.all() and told_apart:
                rows = candidates.filter(pa.array(certain))
            elif not told_apart:
                rows = candidates.filter(pa.array(_settled(candidates, certain, batch, firsts, names)))
            if rows.num_rows:
                parts.append(rows)
    if not parts:
        return empty(schema)
    return parts[0] if len(parts) == 1 else merge(parts, schema)


def _settled(rows: pa.RecordBatch, certain: Flags, keys: pa.RecordBatch, firsts: Words, names: list[str]) -> Flags:
    """Whether the rows belong to a key, where several have one hash, or Arrow cannot compare."""
    doubtful = np.flatnonzero(~certain)
    doubted = rows.take(pa.array(doubtful))
    same_hash = np.isin(firsts, places_of(doubted) & ~LOWER_HALF)
    settled = certain.copy()
    settled[doubtful] = among(doubted, keys.filter(pa.array(same_hash)), names)
    return settled


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    combined = rows.combine_chunks().to_batches()
    return combined[0] if len(combined) == 1 else pa.concat_batches(combined)


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
