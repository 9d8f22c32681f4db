"""Transactions larger than memory should be asked for: in parts, whole or not at all, in progress or not."""

from __future__ import annotations

import itertools
import resource
from collections import Counter

import pytest

from raypipe.model import Op

ROWS = 60_000


@pytest.fixture(params=["off", "on"])
def reading(database, read, request):
    # The least that PostgreSQL takes: every transaction of some size is sent in progress, if it may be.
    database.rows(f"ALTER DATABASE {database.name} SET logical_decoding_work_mem = '64kB'")
    database.write("CREATE TABLE a(id int PRIMARY KEY, body text)", "CREATE TABLE b(id int PRIMARY KEY, body text)")
    return read("a", "b", streaming=request.param).open().until_loaded()


def insert(table: str, first: int, count: int) -> str:
    return f"INSERT INTO {table} SELECT g, md5(g::text) FROM generate_series({first}, {first + count - 1}) g"


def test_a_large_transaction_comes_in_pieces_with_one_boundary(database, reading):
    database.write(insert("a", 1, ROWS), insert("b", 1, ROWS))
    pieces = reading.drain(500_000)
    assert len(pieces) > 5
    assert [piece.boundary for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert sum(reading.present("a").values()) == sum(reading.present("b").values()) == ROWS
    for batch in reading.batches:
        ordinals = batch.rows.column("_raypipe_ordinal").to_pylist()
        assert ordinals == sorted(ordinals)


def test_nothing_is_seen_of_what_is_in_progress_or_rolled_back(database, reading):
    connection = database.connect()
    try:
        connection.execute_simple("BEGIN")
        connection.execute_simple(insert("a", 1, 5000))
        connection.execute_simple("SAVEPOINT one")
        connection.execute_simple(insert("a", 10_000, 5000))
        connection.execute_simple("ROLLBACK TO one")
        connection.execute_simple(insert("a", 20_000, 5000))
        database.write("INSERT INTO b VALUES (1, 'meanwhile')")
        reading.drain()
        assert reading.changes == [("b", Op.INSERT, (1, "meanwhile"))]
        database.roll_back(insert("b", 100, 5000))
        assert reading.drain() == []
        connection.execute_simple("COMMIT")
    finally:
        connection.close()
    reading.drain(100_000)
    assert {row[0] for row in reading.present("a")} == {*range(1, 5001), *range(20_000, 25_000)}
    reading.agree()


def test_a_reader_that_starts_again_in_mid_transaction_takes_every_row_once(database, reading):
    database.write(
        insert("a", 1, 3000),
        "SAVEPOINT one",
        insert("a", 10_000, 3000),
        "ROLLBACK TO one",
        "TRUNCATE b",
        insert("b", 1, 3000),
        "UPDATE b SET body = 'x' WHERE id % 2 = 0",
        insert("a", 20_000, 3000),
    )
    reading.changes = []
    while reading.step(60_000) is not None:
        reading.open()
    assert Counter(reading.ops("a")) == Counter({Op.INSERT: 6000})
    assert Counter(reading.ops("b")) == Counter(
        {Op.TRUNCATE: 1, Op.INSERT: 3000, Op.UPDATE_BEFORE: 1500, Op.UPDATE_AFTER: 1500}
    )
    reading.agree()


def test_a_column_added_inside_a_large_transaction(database, reading):
    database.write(
        insert("a", 1, 3000),
        "ALTER TABLE a ADD COLUMN extra int",
        "INSERT INTO a SELECT g, 'n', g FROM generate_series(5000, 8000) g",
    )
    database.write("INSERT INTO a VALUES (9000, 'z', 1)")
    reading.drain(100_000)
    widths = {key: len(values) for (key,), values in reading.held["a"].keyed.items()}
    assert widths == {**dict.fromkeys(range(1, 3001), 2), **dict.fromkeys([*range(5000, 8001), 9000], 3)}


def test_memory_does_not_grow_with_the_transaction(database, reading):
    def read_one(first: int, rows: int) -> int:
        database.write(insert("a", first, rows))
        taken = 0
        while taken < rows:
            piece = reading.source.poll(1 << 20)
            taken += sum(batch.num_rows for batch in piece.batches) if piece is not None else 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = itertools.accumulate([1, 100_000, 400_000])
    small = read_one(next(first), 100_000)
    large = read_one(next(first), 400_000)
    assert large - small < 60_000  # KiB; the larger transaction is 300,000 rows, 50 MB on the wire, larger
