"""Tables that are loaded whole, changed a little, emptied and loaded again: each view is what DuckDB says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.kept import Kept, Tables
from raypipe.errors import LimitExceeded, Unavailable
from raypipe.model import Column, TableName, TableSchema
from raypipe.plan.sandbox import Sandbox
from raypipe.state import Limits
from raypipe.state.work import OpenWork
from raypipe.steps.views import feed
from raypipe.steps.views.multiset import ascends

ROWS = 3_000


def _table(name: str, key: tuple[str, ...], **columns: pa.DataType) -> TableSchema:
    return TableSchema(
        table=TableName("shop", "main", name),
        columns=tuple(Column(name=column, type=type_) for column, type_ in columns.items()),
        key=key,
    )


ORDERS = _table(
    "orders",
    ("id",),
    id=pa.int64(),
    customer=pa.int64(),
    status=pa.string(),
    amount=pa.decimal128(10, 2),
    x=pa.float64(),
)
LINES = _table("lines", ("order_id", "line"), order_id=pa.int64(), line=pa.string(), many=pa.int32())
NOTES = _table("notes", (), customer=pa.int64(), body=pa.string())
STEPS = {
    "sums": "SELECT customer, count(*) n, count(amount) given, sum(amount) total, avg(many) mean, max(amount) most,"
    " min(status) FILTER (amount > 500) low, count_if(status = 'paid') paid FROM shop.orders"
    " LEFT JOIN shop.lines ON id = order_id GROUP BY customer",
    "plain": "SELECT customer AS k0, count(*) n, sum(amount) FILTER (status = 'paid') total FROM shop.orders"
    " WHERE status <> 'new' GROUP BY customer HAVING count(*) > 1",
    "whole": "SELECT count(*) n, sum(amount) total, min(amount) least FROM shop.orders WHERE status = 'paid'",
    "statuses": "SELECT DISTINCT status FROM shop.orders",
    "floats": "SELECT status, sum(x) s, median(amount) m FROM shop.orders GROUP BY status",
    "paired": "SELECT a.body, count(*) n FROM (SELECT customer FROM shop.orders) o JOIN shop.notes a"
    " ON a.customer = o.customer GROUP BY a.body",
    "joined": "SELECT id, line, many, body FROM shop.orders JOIN shop.lines ON id = order_id"
    " LEFT JOIN shop.notes n ON n.customer = many",
    "latest": "SELECT id, customer, status FROM shop.orders QUALIFY"
    " row_number() OVER (PARTITION BY customer ORDER BY amount DESC, id) <= 2",
    "lonely": "SELECT id FROM shop.orders ANTI JOIN shop.lines ON id = order_id",
    "words": "SELECT body, count(*) n FROM (SELECT body FROM shop.notes UNION ALL"
    " SELECT status FROM shop.orders WHERE customer = 3) GROUP BY body",
    "above": "SELECT total, count(*) n FROM plain GROUP BY total",
}


def _orders(ids: np.ndarray, random: np.random.Generator) -> pa.Table:
    count = len(ids)
    nothing = random.random(count) < 0.05
    return pa.table(
        {
            "id": ids,
            "customer": pa.array(random.integers(0, 400, count), mask=random.random(count) < 0.05),
            "status": random.choice(["new", "paid", "sent"], count),
            "amount": pa.array(random.integers(0, 1000, count).astype(np.int16), mask=nothing).cast(
                pa.decimal128(10, 2)
            ),
            "x": random.choice([0.1, 0.2, -0.0, 0.0, 1e9], count),
        },
        schema=ORDERS.arrow(),
    )


def _lines(ids: np.ndarray, random: np.random.Generator) -> pa.Table:
    columns = {
        "order_id": np.repeat(ids, 2),
        "line": np.tile(["a", "b"], len(ids)),
        "many": random.integers(0, 9, 2 * len(ids)),
    }
    return pa.table(columns, schema=LINES.arrow())


def _notes(count: int, random: np.random.Generator) -> pa.Table:
    customers = pa.array(random.integers(0, 9, count), mask=random.random(count) < 0.1)
    return pa.table({"customer": customers, "body": random.choice(["a", "b", "c"], count)}, schema=NOTES.arrow())


def _shuffled(rows: pa.Table, random: np.random.Generator) -> pa.Table:
    return rows.take(pa.array(random.permutation(rows.num_rows)))


def _cuts(tables: Tables, random: np.random.Generator) -> Iterator[str]:
    """Changes the tables cut by cut, and says how."""
    ids = np.arange(ROWS)
    tables.load("shop.orders", _orders(ids, random))
    tables.load("shop.lines", _lines(ids[::3], random))
    tables.load("shop.notes", _notes(60, random))
    yield "loaded in the order of the keys"
    tables.insert("shop.orders", _orders(np.arange(ROWS, ROWS + 20), random))
    tables.update("shop.orders", _orders(ids[5:200:7], random))
    tables.delete("shop.lines", tables.rows("SELECT * FROM shop.lines WHERE order_id % 17 = 0"))
    tables.delete("shop.notes", tables.rows("SELECT * FROM shop.notes ORDER BY ALL LIMIT 3"))
    yield "a few changes"
    tables.load("shop.orders", _shuffled(_orders(ids[: ROWS // 2], random), random))
    yield "one table loaded again, in any order"
    tables.delete("shop.orders", tables.rows("SELECT * FROM shop.orders WHERE id < 40"))
    tables.insert("shop.notes", _notes(3, random))
    yield "a few changes"
    tables.load("shop.lines", _lines(ids[:0], random))
    yield "one table emptied"
    tables.load("shop.lines", _shuffled(_lines(ids[:900], random), random))
    tables.insert("shop.orders", _orders(np.arange(2 * ROWS, 3 * ROWS), random))
    yield "one table loaded again, and as many rows added to another as it has"
    tables.update("shop.orders", _orders(np.arange(100, 130), random))
    yield "a few changes"


def _wrong(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> dict[str, str]:
    """Views that are wrong after some cut, and how; every other epoch is first lost on its way to the disk."""
    random = np.random.default_rng(seed)
    limits = Limits(spill_bytes=10_000, block_bytes=4_000, small_rows=64)
    tables = Tables([ORDERS, LINES, NOTES])
    with closing(tables), closing(Kept(folder, tables, STEPS, state=limits)) as kept:
        for number, happened in enumerate(_cuts(tables, random)):
            told = tables.epoch()
            if number % 2 == 0:
                with monkeypatch.context() as patch:
                    patch.setattr(OpenWork, "commit", _lost)
                    with pytest.raises(Unavailable):
                        kept.epoch(told)
                kept.reopen()
            kept.epoch(told)
            wrong = kept.differing()
            if wrong:
                return {name: f"{happened}: {how}" for name, how in wrong.items()}
        assert all(kept.expected(name).num_rows for name in STEPS)
    return {}


def _lost(work: OpenWork, version: int, *, note: str = "") -> None:
    raise Unavailable("The disk is gone.")


@pytest.mark.timeout(300)
def test_views_are_exact_after_loads_reloads_and_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    assert not _wrong(tmp_path / "state", monkeypatch, seed % 2**32)


@pytest.mark.timeout(300)
def test_taking_every_load_for_one_of_different_keys_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "ascends", lambda rows, names: True)
    with closing(Tables([ORDERS])) as tables, closing(Kept(tmp_path, tables, {"sums": STEPS["plain"]})) as kept:
        rows = _orders(np.arange(50), np.random.default_rng(1))
        tables.load("shop.orders", rows)
        tables.insert("shop.orders", rows.slice(20))  # read, and told once more by the stream
        tables.delete("shop.orders", rows.slice(20))
        tables.insert("shop.orders", rows.slice(20))
        kept.epoch(tables.epoch())
        assert kept.differing()


@pytest.mark.parametrize(
    ("rows", "rises"),
    [
        ({"a": [1, 2, 3]}, True),
        ({"a": [1, 2, 2]}, False),
        ({"a": [3, 1]}, False),
        ({"a": [1, None]}, False),
        ({"a": [1.0, 2.0]}, False),
        ({"a": [1, 1, 2], "b": ["x", "y", "a"]}, True),
        ({"a": [1, 1], "b": ["y", "y"]}, False),
        ({"a": [1, 1], "b": ["y", "x"]}, False),
        ({"a": []}, False),
    ],
)
def test_rows_in_the_order_of_their_key_are_known_to_differ(rows: dict[str, list[object]], rises: bool) -> None:
    table = pa.table(rows)
    pieces = pa.concat_tables([table.slice(place, 1) for place in range(table.num_rows)] or [table])
    assert ascends(table, list(rows)) == rises
    assert ascends(pieces, list(rows)) == rises


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT customer, list(x) xs FROM shop.orders GROUP BY customer",
        "SELECT id, sum(amount) OVER (PARTITION BY customer ORDER BY id) s FROM shop.orders",
        "SELECT id, count(*) n, sum(amount) s, max(status) m FROM shop.orders GROUP BY id",
    ],
)
def test_a_load_that_needs_more_memory_than_allowed_is_computed_some_keys_at_a_time(
    sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[LimitExceeded] = []
    run = Sandbox.run

    def noted(self: Sandbox, text: str, inputs: Mapping[str, pa.Table]) -> pa.Table:
        try:
            return run(self, text, inputs)
        except LimitExceeded as error:
            failures.append(error)
            raise

    monkeypatch.setattr(Sandbox, "run", noted)
    tables, limits = Tables([ORDERS]), {"step_memory_bytes": 6 << 20}
    with closing(tables), closing(Kept(tmp_path, tables, {"large": sql}, limits)) as kept:
        tables.load("shop.orders", _orders(np.arange(200_000), np.random.default_rng(1)))
        kept.epoch(tables.epoch())
        assert failures
        assert not kept.differing()
