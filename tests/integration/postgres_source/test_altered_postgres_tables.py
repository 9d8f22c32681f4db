"""Tables that are altered while they are captured: columns that come and go, types, names, tables made anew."""

from __future__ import annotations

from collections import Counter

import pytest

from raypipe.model import Op


@pytest.fixture
def reading(database, read):
    database.write(
        "CREATE TABLE items(id int PRIMARY KEY, name text, price int)",
        "INSERT INTO items SELECT g, 'n' || g, g FROM generate_series(1, 20) g",
    )
    return read("items").open().until_loaded()


def settle(reading):
    """Reads on until the catalog was looked at again and whatever follows from it was loaded."""
    reading.source._open.reader._evolution.wants_look = True
    reading.drain()
    reading.until_loaded()


def test_a_column_that_is_added_without_a_default_needs_no_rows_again(database, reading):
    database.write("ALTER TABLE items ADD COLUMN note text", "UPDATE items SET note = 'x' WHERE id < 3")
    reading.drain()
    assert reading.ops("items") == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER] * 2
    assert reading.batches[-1].schema.names == ("id", "name", "price", "note")
    assert reading.batches[-1].schema.version == 2
    settle(reading)
    assert Op.TRUNCATE not in reading.ops("items")


@pytest.mark.parametrize(
    "change",
    [
        "ADD COLUMN stock int NOT NULL DEFAULT 7",
        "ADD COLUMN made timestamptz DEFAULT clock_timestamp()",
        "RENAME COLUMN name TO title",
        "ALTER COLUMN price TYPE numeric(12,2)",
        "ALTER COLUMN id TYPE bigint",
    ],
)
def test_a_change_of_what_rows_hold_loads_the_table_again(database, reading, change):
    database.write("UPDATE items SET price = 0 WHERE id = 1")
    database.write(f"ALTER TABLE items {change}")
    settle(reading)
    assert Op.TRUNCATE in reading.ops("items")
    reading.agree()
    database.write("UPDATE items SET price = 5 WHERE id = 2")
    database.write("DELETE FROM items WHERE id = 3")
    reading.drain()
    assert Op.TRUNCATE not in reading.ops("items")
    reading.agree()


def test_a_change_in_mid_transaction_is_seen_in_its_place(database, reading):
    database.write(
        "INSERT INTO items VALUES (100, 'before', 1)",
        "ALTER TABLE items ADD COLUMN stock int DEFAULT 7",
        "INSERT INTO items VALUES (101, 'after', 1, 8)",
    )
    reading.drain()
    inserts = [values for _, op, values in reading.changes if op is Op.INSERT]
    assert inserts[:2] == [(100, "before", 1), (101, "after", 1, 8)]
    settle(reading)
    reading.agree()


def test_a_dropped_column_goes_without_a_load(database, reading):
    database.write("ALTER TABLE items DROP COLUMN name", "UPDATE items SET price = 0 WHERE id = 1")
    settle(reading)
    assert Op.TRUNCATE not in reading.ops("items")
    assert reading.batches[0].schema.names == ("id", "price")


def test_a_table_that_is_altered_while_nobody_reads_is_loaded_again(database, reading):
    database.write("UPDATE items SET price = 0 WHERE id = 1", "ALTER TABLE items ADD COLUMN stock int DEFAULT 7")
    database.write("UPDATE items SET stock = 1 WHERE id = 2")
    reading.open().until_loaded()
    assert Op.TRUNCATE in reading.ops("items")
    reading.agree()
    reading.open().drain()
    assert reading.changes == []


def test_a_table_that_is_made_anew_is_captured_and_loaded(database, reading):
    database.write("DROP TABLE items")
    settle(reading)
    assert reading.present("items") == Counter()
    database.write("CREATE TABLE items(id int PRIMARY KEY, word text)", "INSERT INTO items VALUES (1, 'a'), (2, 'b')")
    settle(reading)
    database.write("UPDATE items SET word = 'c' WHERE id = 1")
    reading.drain()
    assert reading.present("items") == Counter([(1, "c"), (2, "b")])
    reading.agree()


def test_a_table_that_is_added_to_a_running_source_is_loaded_beside_the_others(database, read, reading):
    database.write("CREATE TABLE more(id int PRIMARY KEY)", "INSERT INTO more VALUES (1)")
    reading.tables = ("items", "more")
    reading.drain()
    reading.open()
    database.write("INSERT INTO more VALUES (2)", "INSERT INTO items VALUES (50, 'x', 1)")
    reading.changes = []
    reading.until_loaded()
    assert Op.TRUNCATE not in reading.ops("items")
    assert reading.present("more") == Counter([(1,), (2,)])
    reading.agree()


def test_an_enum_gains_a_label_and_the_label_arrives(database, read):
    database.write("CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE TABLE m(id int PRIMARY KEY, mood mood)")
    reading = read("m").open().until_loaded()
    database.rows("ALTER TYPE mood ADD VALUE 'happy'")
    database.write("INSERT INTO m VALUES (1, 'happy')")
    reading.drain()
    assert reading.present("m") == Counter([(1, "happy")])


def test_a_table_rewritten_by_vacuum_needs_no_rows_again(database, reading):
    database.rows("VACUUM FULL items")
    settle(reading)
    assert reading.changes == []
