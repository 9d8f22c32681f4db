"""Rows that are read again where they stand: nothing is emptied, and what writers do meanwhile is not undone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from reading import writers

from raypipe import faults
from raypipe.model import IMAGE, OP, Image, Op
from raypipe.sources.postgres.position import Backfill, Position


def read_again(reading, *tables: str, **what) -> None:
    reader = reading.source._open.reader
    for table in tables:
        reader.backfill(f"public.{table}", Backfill(**what))


def read_all(reading, max_bytes: int) -> None:
    """Until nothing is left to be read again; writers may go on."""
    while reading.step(max_bytes) is None or reading.loading or not reading.whole:
        pass


def spoil(reading, table: str) -> None:
    """As if the sink held something else: what is read again mends it."""
    held = reading.held[table]
    held.keyed = {key: {**values, "name": "spoilt"} for key, values in held.keyed.items()}


@pytest.fixture
def reading(database, read):
    database.write(
        "CREATE TABLE items(id int PRIMARY KEY, name text, price int)",
        "INSERT INTO items SELECT g, 'n' || g, g FROM generate_series(1, 2000) g",
    )
    reading = read("items").open().until_loaded()
    reading.changes, reading.batches = [], []
    return reading


def test_rows_that_are_read_again_replace_what_stands_for_them(reading):
    spoil(reading, "items")
    read_again(reading, "items")
    reading.until_loaded(4000)
    assert Op.TRUNCATE not in reading.ops("items")
    reading.agree()
    again = [batch for batch in reading.batches if batch.schema.table.table == "items"]
    images = [row for batch in again for row in batch.rows.to_pylist()]
    assert {(row[OP], row[IMAGE]) for row in images} == {
        (Op.UPDATE_BEFORE, Image.KEY),
        (Op.UPDATE_AFTER, Image.FULL),
    }


def test_a_reader_that_starts_again_goes_on_behind_the_last_chunk(reading):
    spoil(reading, "items")
    read_again(reading, "items")
    pieces = 0
    while Position.parse(reading.position).backfills or not pieces:
        reading.step(4000)
        reading.open()
        pieces += 1
    assert pieces > 5
    reading.agree()


def test_a_truncate_ends_it(database, reading):
    read_again(reading, "items")
    database.write("TRUNCATE items", "INSERT INTO items VALUES (1, 'only', 1)")
    reading.until_loaded()
    assert reading.present("items") == Counter([(1, "only", 1)])


def test_a_transaction_that_is_open_holds_up_the_rows_but_not_the_stream(database, reading):
    other = database.connect()
    other.execute_simple("BEGIN")
    other.execute_simple("INSERT INTO items VALUES (9000, 'open', 1)")
    database.write("INSERT INTO items VALUES (9002, 'later', 1)")
    (since,) = database.rows("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")[0]
    spoil(reading, "items")
    read_again(reading, "items", since=int(since))
    database.write("INSERT INTO items VALUES (9001, 'flows', 1)")
    reading.drain()
    assert (9001, "flows", 1) in reading.present("items")
    assert reading.loading == ("shop.items",)
    other.execute_simple("COMMIT")
    other.close()
    reading.until_loaded().agree()


def some_changes(chance: random.Random) -> list[str]:
    some = chance.randint(1, 2200)
    return [
        chance.choice(
            [
                f"UPDATE items SET price = price + 1, name = 'w' WHERE id = {some}",
                f"DELETE FROM items WHERE id = {some}",
                f"INSERT INTO items VALUES ({some}, 'again', 7) ON CONFLICT DO NOTHING",
                f"UPDATE items SET id = id + 5000 WHERE id = {some}",
                f"UPDATE items SET price = {some} WHERE id % 4 = {some % 4}",
            ]
        ),
        chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]),
    ]


def test_what_writers_do_meanwhile_is_not_undone(database, reading, seed):
    with writers(database, 3, seed, some_changes):
        for _ in range(6):
            spoil(reading, "items")
            read_again(reading, "items")
            read_all(reading, 30_000)
            reading.agree()
    reading.agree()


def comes_by_its_insert(database, reading) -> bool:
    """Whether a row that a chunk saw, and the stream has not reached, first comes by in the stream."""
    for turn in range(40):
        database.write(f"UPDATE items SET price = {turn} WHERE id % 20 = {turn % 20}")
    database.write("INSERT INTO items VALUES (9000, 'new', 1)")
    read_again(reading, "items")
    read_all(reading, 5_000)
    return next(op for _, op, values in reading.changes if values[0] == 9000) is Op.INSERT


def test_what_a_chunk_saw_waits_until_the_stream_has_got_there(database, reading):
    assert comes_by_its_insert(database, reading)
    reading.agree()


def test_rows_that_do_not_wait_for_the_stream_are_found_out(database, reading, monkeypatch):
    monkeypatch.setitem(faults._armed, "mutant.no_watermark", ("skip", "", 1))
    assert not comes_by_its_insert(database, reading)


def test_rows_that_undo_what_the_stream_brought_are_found_out(database, reading, seed, monkeypatch):
    monkeypatch.setitem(faults._armed, "mutant.backfill_touched", ("skip", "", 1))
    with writers(database, 3, seed, some_changes), pytest.raises(AssertionError):  # noqa: PT012
        for _ in range(60):
            read_again(reading, "items")
            read_all(reading, 30_000)
            reading.agree()
