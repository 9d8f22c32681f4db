"""A chunk may hold nothing but NULLs in a column: the driver then guesses its type, and must not be believed."""

import pytest
from source_scene import assert_agrees, following


@pytest.mark.parametrize(
    "declared",
    ["", "BLOB", "TEXT", "INTEGER", "REAL", "BOOLEAN", "DATE", "TIMESTAMP", "TIME", "JSON", "DECIMAL(10,2)", "ANY"],
)
def test_a_column_of_nulls_arrives_as_nulls_by_snapshot_and_by_stream(tmp_path, declared):
    table = f"CREATE TABLE items(id INTEGER PRIMARY KEY, value {declared})"
    with following(tmp_path, ("items",), table, "INSERT INTO items VALUES (1, NULL)") as follower:
        follower.database.write("INSERT INTO items VALUES (2, NULL)", "UPDATE items SET id = 3 WHERE id = 1")
        follower.drain()
        assert_agrees(follower)
        assert follower.parked == 0
