"""Partitions that come and go under a captured root: nothing of that is in the stream but what we have told there."""

from __future__ import annotations

from contextlib import closing

import pytest
from test_access_and_values import as_role, role
from test_altered_postgres_tables import AGAIN, LOAD, NOTHING, asked, database, settle

CHANGES = {
    "a new partition that is filled": (
        NOTHING,
        "CREATE TABLE items3 PARTITION OF items FOR VALUES FROM (200) TO (300)",
        "INSERT INTO items SELECT g, 'n', g FROM generate_series(200, 220) g",
    ),
    "a filled table attached": (AGAIN, "ALTER TABLE items ATTACH PARTITION apart FOR VALUES FROM (200) TO (300)"),
    "a tree attached": (
        AGAIN,
        "CREATE TABLE tree(LIKE items INCLUDING ALL) PARTITION BY RANGE (id)",
        "ALTER TABLE tree ATTACH PARTITION apart FOR VALUES FROM (200) TO (300)",
        "ALTER TABLE items ATTACH PARTITION tree FOR VALUES FROM (200) TO (300)",
    ),
    "a partition detached": (LOAD, "ALTER TABLE items DETACH PARTITION items2"),
    "a partition detached concurrently": (LOAD, "ALTER TABLE items DETACH PARTITION items2 CONCURRENTLY"),
    "a partition dropped": (LOAD, "DROP TABLE items2"),
    "a partition truncated": (LOAD, "TRUNCATE items2"),
    "a partition truncated, and a column added": (LOAD, "TRUNCATE items2", "ALTER TABLE items ADD COLUMN note text"),
    "a partition truncated, and another attached": (
        LOAD,
        "TRUNCATE items2",
        "ALTER TABLE items ATTACH PARTITION apart FOR VALUES FROM (200) TO (300)",
    ),
    "a partition truncated, and then rewritten": (
        LOAD,
        "TRUNCATE items2",
        "ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2",
    ),
    "a column with a default": (AGAIN, "ALTER TABLE items ADD COLUMN stock int DEFAULT 7"),
    "a column dropped": (NOTHING, "ALTER TABLE items DROP COLUMN name"),
    "rows rewritten": (AGAIN, "ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2"),
    "a row that moves": (NOTHING, "UPDATE items SET id = 50 WHERE id = 150"),
    "everything truncated, filled, and then a partition truncated": (
        LOAD,
        "TRUNCATE items",
        "INSERT INTO items VALUES (1, 'x', 1), (150, 'y', 2)",
        "TRUNCATE items2",
    ),
    "everything truncated, filled, and rewritten": (
        AGAIN,
        "TRUNCATE items",
        "INSERT INTO items VALUES (1, 'x', 1), (150, 'y', 2)",
        "ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2",
    ),
    "everything truncated and filled": (NOTHING, "TRUNCATE items", "INSERT INTO items VALUES (1, 'x', 1)"),
}

__all__ = ["database", "role"]


@pytest.fixture(params=["told", "looked"])
def reading(request, database, read):
    database.write(
        "CREATE TABLE items(id int PRIMARY KEY, name text, price int) PARTITION BY RANGE (id)",
        "CREATE TABLE items1 PARTITION OF items FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE items2 PARTITION OF items FOR VALUES FROM (100) TO (200)",
        "INSERT INTO items SELECT g, 'n' || g, g FROM generate_series(80, 180) g WHERE g <> 90",
        "CREATE TABLE apart(price int, id int PRIMARY KEY, name text)",
        "INSERT INTO apart SELECT g, g, 'apart' FROM generate_series(200, 250) g",
    )
    reading = read("items", event_triggers="on" if request.param == "told" else "off").open().until_loaded()
    reading.changes, reading.batches = [], []
    return reading


@pytest.mark.parametrize("reader", ["up", "down"])
@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_the_root_is_what_it_is_in_the_source(database, reading, change, reader):
    expected, *statements = CHANGES[change]
    told = reading.source._open.reader._evolution.told
    if reader == "down":
        reading.source.close()
    database.write("UPDATE items SET price = 0 WHERE id = 81", "DELETE FROM items WHERE id = 82")
    for statement in statements:
        database.rows(statement)
    if reader == "down":
        reading.open()
    settle(reading)
    if change == "a new partition that is filled" and not told:
        expected = AGAIN  # it may have been attached
    if "rewritten" in change and not told:
        expected = LOAD  # it may have been a TRUNCATE of partitions
    assert asked(reading) == expected
    reading.agree()
    reading.open()
    reading.changes, reading.batches = [], []
    settle(reading)
    assert reading.changes == []


def test_rows_of_a_partition_that_may_not_be_read_come_through_the_root(database, role):
    database.write(
        "CREATE TABLE items(id int PRIMARY KEY, name text, price int) PARTITION BY RANGE (id)",
        "CREATE TABLE items1 PARTITION OF items FOR VALUES FROM (0) TO (100)",
        "INSERT INTO items SELECT g, 'n' || g, g FROM generate_series(1, 90) g",
        "CREATE TABLE apart(id int PRIMARY KEY, name text, price int)",
        "INSERT INTO apart SELECT g, 'apart', g FROM generate_series(200, 250) g",
    )
    database.rows(f"GRANT SELECT ON items TO {role}")
    database.rows(f"CREATE PUBLICATION {database.slot} FOR TABLE items WITH (publish_via_partition_root = true)")
    with closing(as_role(database, role, "items")) as reading:
        reading.open().until_loaded()
        assert not reading.source._open.reader._evolution.told
        database.rows("ALTER TABLE items ATTACH PARTITION apart FOR VALUES FROM (200) TO (300)")
        settle(reading)
        assert len(reading.present("items")) == 90 + 51
        reading.agree()
