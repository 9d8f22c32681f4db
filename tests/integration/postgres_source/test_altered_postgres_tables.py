"""Tables that are altered while they are captured: with and without event triggers, while a reader is up or down."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest
from postgres_database import Database

from raypipe.model import Op

# What is asked of the source then: nothing, every row where it stands, or the table emptied and loaded.
NOTHING, AGAIN, LOAD = "nothing", "again", "load"

CHANGES = {
    "a column with a constant default": (AGAIN, "ALTER TABLE items ADD COLUMN stock int NOT NULL DEFAULT 7"),
    "a column with a volatile default": (
        AGAIN,
        "ALTER TABLE items ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
    ),
    "a column without a default": (NOTHING, "ALTER TABLE items ADD COLUMN note text"),
    "a column that is filled by an update": (
        NOTHING,
        "ALTER TABLE items ADD COLUMN note text",
        "UPDATE items SET note = 'filled ' || id",
    ),
    "a default for rows to come": (NOTHING, "ALTER TABLE items ALTER COLUMN price SET DEFAULT 5"),
    "a column dropped": (NOTHING, "ALTER TABLE items DROP COLUMN code"),
    "a column renamed": (AGAIN, "ALTER TABLE items RENAME COLUMN name TO title"),
    "two columns that change names": (
        AGAIN,
        "ALTER TABLE items RENAME COLUMN price TO other",
        "ALTER TABLE items RENAME COLUMN weight TO price",
        "ALTER TABLE items RENAME COLUMN other TO weight",
    ),
    "int to bigint": (AGAIN, "ALTER TABLE items ALTER COLUMN price TYPE bigint"),
    "text to varchar": (AGAIN, "ALTER TABLE items ALTER COLUMN name TYPE varchar(40)"),
    "a longer varchar": (NOTHING, "ALTER TABLE items ALTER COLUMN code TYPE varchar(50)"),
    "numeric of another scale": (AGAIN, "ALTER TABLE items ALTER COLUMN amount TYPE numeric(12,4)"),
    "other values of the same type": (AGAIN, "ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2"),
    "emptied, filled, and then other values of the same type": (
        AGAIN,
        "TRUNCATE items",
        "INSERT INTO items(id, name, price) VALUES (1, 'x', 5), (2, 'y', 6)",
        "ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2",
    ),
    "the same in one transaction": (
        AGAIN,
        "TRUNCATE items; INSERT INTO items(id, name, price) VALUES (1, 'x', 5), (2, 'y', 6);"
        " ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2",
    ),
    "the key of another type": (LOAD, "ALTER TABLE items ALTER COLUMN id TYPE bigint"),
    "another key": (LOAD, "ALTER TABLE items DROP CONSTRAINT items_pkey", "ALTER TABLE items ADD PRIMARY KEY (name)"),
    "made anew with the same columns": (LOAD, "DROP TABLE items", "@", "INSERT INTO items VALUES (1, 'anew')"),
    "made anew with other columns": (
        LOAD,
        "DROP TABLE items",
        "CREATE TABLE items(id int PRIMARY KEY, word text)",
        "INSERT INTO items VALUES (1, 'a'), (2, 'b')",
    ),
    "renamed away, and another in its place": (
        LOAD,
        "ALTER TABLE items RENAME TO items_old",
        "ALTER TABLE others RENAME TO items",
        "UPDATE items SET name = 'moved' WHERE id = 1",
        "UPDATE items_old SET name = 'not ours' WHERE id = 1",
    ),
    "moved into another schema, and made anew": (
        LOAD,
        "CREATE SCHEMA attic",
        "ALTER TABLE items SET SCHEMA attic",
        "@",
        "INSERT INTO items VALUES (1, 'anew')",
    ),
    "full identity": (NOTHING, "ALTER TABLE items REPLICA IDENTITY FULL"),
    "a comment": (NOTHING, "COMMENT ON TABLE items IS 'of the shop'"),
}
ITEMS = (
    "(id int PRIMARY KEY, name text NOT NULL, price int, weight int, code varchar(5), amount numeric(10,2), body text)"
)


SERVERS = ("postgres18", "postgres16", "postgres15")


@pytest.fixture
def database(request):
    """On one of the servers, by the test's name: all of them see every kind of change."""
    server = SERVERS[crc32(request.node.name.encode()) % len(SERVERS)]
    database = Database(request.getfixturevalue(server).url)
    yield database
    database.close()


@pytest.fixture(params=["told", "looked"])
def reading(request, database, read):
    """Of a table of 50 rows, with event triggers or without."""
    database.write(
        f"CREATE TABLE items{ITEMS}",
        "ALTER TABLE items ALTER COLUMN body SET STORAGE EXTERNAL",
        "INSERT INTO items SELECT g, 'n' || g, g, -g, 'c' || g, g / 3.0, repeat('b', 3000)"
        " FROM generate_series(1, 50) g",
        "CREATE TABLE others(LIKE items INCLUDING ALL)",
        "INSERT INTO others SELECT * FROM items WHERE id % 5 = 1",
    )
    reading = read("items", event_triggers="on" if request.param == "told" else "off").open().until_loaded()
    assert reading.source._open.reader._evolution.told == (request.param == "told")
    reading.changes, reading.batches = [], []
    return reading


def settle(reading):
    """Reads on until the catalog was looked at again and whatever follows from it was loaded."""
    reading.until_loaded()
    reading.source._open.reader._evolution.wants_look = True
    reading.until_loaded()


def alter(database, statements):
    for statement in statements:
        database.rows(f"CREATE TABLE items{ITEMS}" if statement == "@" else statement)


def asked(reading) -> str:
    if any(op is Op.READ for op in reading.ops("items")):
        return LOAD
    again = [batch for batch in reading.batches if batch.rows.column("_raypipe_time").null_count]
    return AGAIN if sum(batch.num_rows for batch in again) else NOTHING


@pytest.mark.parametrize("reader", ["up", "down"])
@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_the_table_is_what_it_is_in_the_source(database, reading, change, reader):
    expected, *statements = CHANGES[change]
    if reader == "down":
        reading.source.close()
    database.write("UPDATE items SET price = 0 WHERE id = 1", "DELETE FROM items WHERE id = 2")
    alter(database, statements)
    if reader == "down":
        reading.open()
    settle(reading)
    assert asked(reading) == expected
    first = reading.batches[0]
    assert first.schema.names == ("id", "name", "price", "weight", "code", "amount", "body")
    assert first.schema.version == 1
    reading.agree()
    reading.open()
    reading.changes, reading.batches = [], []
    database.write("DELETE FROM items WHERE id = 1")
    settle(reading)
    assert asked(reading) == NOTHING
    assert reading.ops("items") == [Op.DELETE]
    reading.agree()


def test_a_change_in_mid_transaction_is_seen_in_its_place(database, reading):
    database.write(
        "INSERT INTO items(id, name) VALUES (100, 'before')",
        "ALTER TABLE items ADD COLUMN stock int DEFAULT 7",
        "INSERT INTO items(id, name, stock) VALUES (101, 'after', 8)",
    )
    reading.drain()
    inserts = [values for _, op, values in reading.changes if op is Op.INSERT]
    assert [(values[0], values[1], values[7:]) for values in inserts] == [(100, "before", ()), (101, "after", (8,))]
    settle(reading)
    reading.agree()


def test_a_change_that_is_rolled_back_is_none(database, reading):
    database.roll_back("ALTER TABLE items ADD COLUMN stock int DEFAULT 7", "UPDATE items SET stock = 1")
    database.roll_back("DROP TABLE items")
    database.write("UPDATE items SET price = 0 WHERE id = 1")
    settle(reading)
    assert reading.ops("items") == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER]
    assert reading.batches[0].schema.version == 1
    reading.agree()


def test_a_table_that_is_dropped_goes_where_it_was_dropped(database, reading):
    database.write("UPDATE items SET price = 0 WHERE id = 1")
    database.rows("DROP TABLE items")
    settle(reading)
    assert reading.ops("items") == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER, Op.TRUNCATE]
    assert reading.present("items") == Counter()
    reading.open()
    database.write("CREATE TABLE items(id int PRIMARY KEY, word text)", "INSERT INTO items VALUES (1, 'a'), (2, 'b')")
    settle(reading)
    database.write("UPDATE items SET word = 'c' WHERE id = 1")
    reading.drain()
    assert reading.present("items") == Counter([(1, "c"), (2, "b")])
    reading.agree()


def test_an_update_that_leaves_a_large_value_alone_is_whole_beside_a_change(database, reading):
    database.write("UPDATE items SET price = 1 WHERE id < 10")
    database.rows("ALTER TABLE items ADD COLUMN stock int DEFAULT 7")
    database.write("UPDATE items SET price = 2 WHERE id < 5")
    database.rows("ALTER TABLE items RENAME COLUMN body TO content")
    database.write("UPDATE items SET price = 3 WHERE id < 3")
    settle(reading)
    reading.agree()


def test_rows_in_quarantine_survive_a_change_beside_them(database, reading):
    database.write("UPDATE items SET amount = 'NaN' WHERE id < 4")
    database.rows("ALTER TABLE items ADD COLUMN stock int DEFAULT 7")
    settle(reading)
    assert len(reading.present("_raypipe_quarantine")) == 3
    reading.agree()
    database.write("UPDATE items SET amount = 1 WHERE id = 1")
    settle(reading)
    assert len(reading.present("_raypipe_quarantine")) == 2
    reading.agree()


def test_a_table_that_is_truncated_and_filled_needs_nothing_more(database, reading):
    database.write("TRUNCATE items", "INSERT INTO items(id, name) VALUES (1, 'x')")
    settle(reading)
    assert reading.ops("items") == [Op.TRUNCATE, Op.INSERT]
    reading.agree()


def test_columns_that_are_carried_as_text_from_now_on_are_loaded_again(database, reading):
    reading.options["text_columns"] = "items.amount"
    reading.open()
    settle(reading)
    assert asked(reading) == LOAD
    reading.agree()


def test_a_table_that_is_made_anew_again_before_its_load_has_begun_to_copy_is_followed(database, reading):
    older = database.connect()  # every load waits for a transaction that was running before it
    older.execute_simple("BEGIN")
    older.execute_simple("SELECT pg_current_xact_id()")
    database.write("DROP TABLE items", f"CREATE TABLE items{ITEMS}", "INSERT INTO items(id, name) VALUES (1, 'first')")
    wait_for_the_load(reading)
    database.write("DROP TABLE items", f"CREATE TABLE items{ITEMS}", "INSERT INTO items(id, name) VALUES (2, 'second')")
    older.execute_simple("COMMIT")
    older.close()
    settle(reading)
    database.write("INSERT INTO items(id, name) VALUES (3, 'third')", "UPDATE items SET price = 1 WHERE id = 2")
    reading.until_loaded()
    assert reading.present("items", ["id", "name", "price"]) == Counter([(2, "second", 1), (3, "third", None)])
    reading.agree()


def wait_for_the_load(reading):
    """Until the table was emptied for a load."""
    reading.changes = []
    while Op.TRUNCATE not in reading.ops("items") or not reading.loading:
        if reading.step() is None:
            reading.source.wait(0.05)


@pytest.mark.parametrize("reader", ["up", "down"])
@pytest.mark.parametrize("triggers", ["on", "off"])
def test_what_happens_while_two_tables_have_each_others_names_is_not_lost(database, read, triggers, reader):
    database.write(f"CREATE TABLE items{ITEMS}", "CREATE TABLE others(LIKE items INCLUDING ALL)")
    for table in ("items", "others"):
        database.write(f"INSERT INTO {table}(id, name) SELECT g, '{table}' || g FROM generate_series(1, 50) g")
    reading = read("items", "others", event_triggers=triggers).open().until_loaded()
    if reader == "down":
        reading.source.close()
    swap = (
        "ALTER TABLE items RENAME TO x",
        "ALTER TABLE others RENAME TO items",
        "ALTER TABLE x RENAME TO others",
    )
    database.write(*swap)
    database.write("DELETE FROM items WHERE id = 1", "UPDATE others SET price = 7 WHERE id = 2")
    database.write(*swap)
    database.write("INSERT INTO items(id, name) VALUES (51, 'after')", "DELETE FROM others WHERE id = 3")
    if reader == "down":
        reading.open()
    settle(reading)
    reading.agree()
    database.write("UPDATE items SET price = 1", "UPDATE others SET price = 2")
    reading.drain()
    reading.agree()


def test_a_table_that_is_added_to_a_running_source_is_loaded_beside_the_others(database, reading):
    database.write("CREATE TABLE more(id int PRIMARY KEY)", "INSERT INTO more VALUES (1)")
    reading.tables = ("items", "more")
    reading.drain()
    reading.open()
    database.write("INSERT INTO more VALUES (2)", "UPDATE items SET price = 0 WHERE id = 1")
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


def test_a_table_rewritten_by_vacuum_is_read_again_only_where_nobody_tells(database, reading):
    told = reading.source._open.reader._evolution.told
    database.rows("VACUUM FULL items")
    settle(reading)
    assert asked(reading) == (NOTHING if told else AGAIN)
    reading.agree()
