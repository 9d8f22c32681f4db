"""Traces against a plain dictionary: random rows of many types, random works, versions forgotten and gone on from."""

from __future__ import annotations

import decimal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_model import Model, Row, keys_of, plain, schema_of, told, weighted

from raypipe.contracts import WEIGHT, TraceSchema
from raypipe.state import Limits, Store
from raypipe.state.places import LOWER_HALF, first_places, places

# So small that a few rows make several pieces, runs and merges.
SMALL = Limits(block_bytes=200, slice_bytes=150, spill_bytes=600, tier=2, small_rows=4, most_runs=5)

VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.sampled_from([0, 1, -1, 2**62])),
    "short": (pa.int16(), st.integers(-2, 2)),
    "unsigned": (pa.uint64(), st.sampled_from([0, 1, 2**64 - 1])),
    "text": (pa.string(), st.sampled_from(["", "a", "b", "eight by", "more than eight", "ä"])),
    "long": (pa.large_string(), st.sampled_from(["", "x", "x" * 100])),
    "bytes": (pa.binary(), st.sampled_from([b"", b"\0", b"\0\0", b"12345678"])),
    "fixed": (pa.binary(4), st.sampled_from([b"1234", b"\0\0\0\0"])),
    "float": (pa.float64(), st.sampled_from([0.0, -0.0, float("nan"), 1.5, float("inf")])),
    "single": (pa.float32(), st.sampled_from([0.0, -0.0, float("nan"), 1.5])),
    "bool": (pa.bool_(), st.booleans()),
    "decimal": (pa.decimal128(20, 2), st.sampled_from([decimal.Decimal("1.50"), decimal.Decimal("-1.50")])),
    "date": (pa.date32(), st.sampled_from([date(2026, 1, 1), date(1970, 1, 1)])),
    "time": (pa.time64("us"), st.sampled_from([time(1, 2, 3), time(0)])),
    "moment": (pa.timestamp("us", tz="UTC"), st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC)])),
    "list": (pa.list_(pa.float64()), st.lists(st.sampled_from([1.5, 0.0, -0.0, None]), max_size=2)),
    "texts": (pa.large_list(pa.string()), st.lists(st.sampled_from(["", "a"]), max_size=2)),
    "struct": (
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
        st.sampled_from([{"a": 1, "b": []}, {"a": None, "b": ["x"]}, {"a": None, "b": None}]),
    ),
}
WEIGHTS = st.sampled_from([1, 1, 1, -1, 2, -2, 5])


@st.composite
def traces(draw: st.DrawFn) -> tuple[TraceSchema, st.SearchStrategy[Row]]:
    """A schema of one to four columns, of which some are the key, and rows for it."""
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4, unique=True))
    key = draw(st.lists(st.sampled_from(kinds), unique=True, max_size=3))
    row = st.tuples(*(st.none() | VALUES[kind][1] for kind in kinds))
    return schema_of({kind: VALUES[kind][0] for kind in kinds}, key), row


def key_part(schema: TraceSchema, row: Row) -> Row:
    return tuple(row[schema.columns.names.index(name)] for name in schema.key)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rpstate") as made:
        yield Path(made)


def opened(folder: Path, *schemas: TraceSchema, generation: int = 1, limits: Limits = SMALL) -> Store:
    return Store.open(folder, generation=generation, identity="log", traces=schemas, limits=limits)


@settings(max_examples=200)
@given(data=st.data())
def test_a_trace_is_the_multiset_of_what_was_appended_at_every_version(data: st.DataObject) -> None:
    schema, row = data.draw(traces())
    appended = st.lists(st.tuples(row, WEIGHTS), max_size=12)
    with tempfile.TemporaryDirectory(prefix="rpstate") as made, ExitStack() as stores:
        folder = Path(made)

        def open_again() -> Store:
            store = opened(folder, schema)
            stores.callback(store.close)  # also where Hypothesis ends an example half way
            return store

        store = open_again()
        models: dict[int | None, Model] = {None: Model(schema)}
        ever: dict[int, Model] = {}
        for _ in range(data.draw(st.integers(1, 12))):
            after = data.draw(st.sampled_from(list(models)), label="after")
            model = models[after].copy()
            work = store.begin(after)
            trace = work.trace("t")
            for _ in range(data.draw(st.integers(0, 3), label="appends")):
                if data.draw(st.integers(0, 9)) == 9:
                    trace.clear()
                    model = Model(schema)
                rows = data.draw(appended)
                trace.append(weighted(schema, rows))
                model.append(rows)
                keys = [key_part(schema, one) for one in data.draw(st.lists(row, max_size=4))]
                assert told(trace.probe(keys_of(schema, keys))) == (model.probe(keys) if schema.key else {})
            assert told(trace.rows()) == model.all()
            assert told(work.standing("t").rows()) == models[after].all()
            end = data.draw(st.sampled_from(["commit", "commit", "commit", "abort", "reopen"]), label="end")
            if end == "commit":
                number = (after or 0) + data.draw(st.integers(1, 3))
                replayed = number in store.versions()
                work.commit(number, note=f"note {number}")
                if not replayed:
                    ever[number] = models[number] = model
                assert store.note(number) == f"note {number}"
            elif end == "abort":
                work.abort()
            else:
                store.close()
                store = open_again()
            if data.draw(st.booleans(), label="merge"):
                store.settle()
            if data.draw(st.integers(0, 3), label="forget") == 3:
                kept = data.draw(st.sets(st.sampled_from(list(models)))) - {None}
                store.keep(kept)
                newest = max((number for number in models if number), default=None)
                models = {number: each for number, each in models.items() if number in {None, newest, *kept}}
            assert set(store.versions()) >= set(models) - {None}
            # A version that was forgotten since the last commit is there again when the store is opened again.
            models = {None: Model(schema)} | {number: ever[number] for number in store.versions()}
        for number, model in models.items():
            with store.begin(number) as work:
                assert told(work.trace("t").rows()) == model.all()
        store.close()


@settings(max_examples=150)
@given(data=st.data())
def test_rows_stand_for_all_that_there_were_of_their_keys(data: st.DataObject) -> None:
    schema, row = data.draw(traces())
    if not schema.key:
        return
    rows = st.lists(row, max_size=15)
    with tempfile.TemporaryDirectory(prefix="rpstate") as made, closing(opened(Path(made), schema)) as store:
        model = Model(schema)
        for version in range(1, data.draw(st.integers(2, 8))):
            work = store.begin(version - 1 or None)
            standing = model.all()
            for _ in range(data.draw(st.integers(1, 3), label="replacements")):
                told_rows = data.draw(rows)
                stays = [data.draw(st.booleans()) for _ in told_rows]
                lasts = {
                    tuple(plain(value) for value in key_part(schema, one)): (one, there)
                    for one, there in zip(told_rows, stays, strict=True)
                }
                before = model.probe([key_part(schema, one) for one, _ in lasts.values()])
                added = work.trace("t").replace(
                    weighted(schema, [(one, 1) for one in told_rows]).drop_columns([WEIGHT]), np.array(stays, np.bool_)
                )
                after = model.copy()
                after.rows.subtract(before)
                after.append([(one, 1) for one, there in lasts.values() if there])
                after.rows.subtract(model.rows)
                assert told(added) == after.all()
                model.rows.update(after.rows)
                assert told(work.trace("t").rows()) == model.all()
            assert told(work.standing("t").rows()) == standing
            work.commit(version)
            if data.draw(st.booleans(), label="merge"):
                store.settle()


@settings(max_examples=300)
@given(data=st.data())
def test_equal_rows_have_equal_places_wherever_they_stand(data: st.DataObject) -> None:
    schema, row = data.draw(traces())
    rows = data.draw(st.lists(row, min_size=1, max_size=8))
    names = schema.columns.names
    arrays = [pa.array([each[place] for each in rows], field.type) for place, field in enumerate(schema.columns)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema.columns)
    together = places(batch, schema.key, names)
    alone = np.concatenate([places(batch.slice(number, 1), schema.key, names) for number in range(len(rows))])
    assert (together == alone).all()
    assert (first_places(batch, schema.key) == together & ~LOWER_HALF).all()
    by_row = {tuple(plain(value) for value in each): place for each, place in zip(rows, together.tolist(), strict=True)}
    assert all(
        by_row[tuple(plain(value) for value in each)] == place for each, place in zip(rows, together, strict=True)
    )
    assert len(set(by_row.values())) == len(by_row), "two different rows of so few have one place"
