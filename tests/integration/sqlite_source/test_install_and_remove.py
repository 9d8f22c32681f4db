"""Putting the capture in and taking every trace of it out."""

import sqlite3

import pytest
from source_scene import Database, assert_agrees, following

from raypipe.errors import SchemaMismatch, SourceGap
from raypipe.sources import open_source
from raypipe.sources.sqlite import install, remove

SCRIPT = (
    "CREATE TABLE items(id INTEGER PRIMARY KEY, sku TEXT UNIQUE, v TEXT)",
    "CREATE TABLE pairs(a, b, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE UNIQUE INDEX one ON items(lower(v))",
    "CREATE TRIGGER app AFTER INSERT ON items BEGIN SELECT 1; END",
    "INSERT INTO items VALUES (1, 'a', 'x'), (2, 'b', 'y')",
)


def schema_of(database):
    return database.writer.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_remove_takes_every_trace_out(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    before = schema_of(database)
    install(database.path, ["items", "pairs"])
    assert schema_of(database) != before
    database.write("ANALYZE", "REPLACE INTO items VALUES (3, 'a', 'y')", "ALTER TABLE items ADD COLUMN w")
    install(database.path, ["items", "pairs"])
    remove(database.path)
    database.write("ALTER TABLE items DROP COLUMN w")
    assert [row for row in schema_of(database) if "sqlite_stat" not in row[1]] == before
    stats = database.writer.execute("SELECT count(*) FROM sqlite_stat1 WHERE tbl LIKE '%raypipe%'").fetchone()
    assert stats == (0,)
    remove(database.path)  # again, with nothing to take out
    database.write("INSERT INTO items VALUES (9, 'free', 'of triggers')")


def test_a_reader_at_work_does_not_put_back_what_was_removed(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    before = schema_of(database)
    follower = database.follow("items")
    remove(database.path)
    database.write("INSERT INTO items VALUES (9, 'not', 'captured')")
    for attempt in (follower.step, follower.reopen, follower.make().view().__enter__):
        with pytest.raises(SourceGap, match="no capture"):
            attempt()
    assert schema_of(database) == before
    follower.close()


def test_a_reader_whose_changes_another_one_has_pruned_is_refused(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    slow, quick = database.follow("items"), database.follow("items", "pairs")
    database.write("DELETE FROM items WHERE id = 1", "DELETE FROM items WHERE id = 2")
    quick.drain()
    quick.source.acknowledge(quick.position)
    quick.source.wait(0)
    with pytest.raises(SourceGap, match="pruned"):
        slow.reopen()
    slow.close()
    quick.close()


def test_installing_twice_changes_nothing(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    install(database.path, ["items"])
    before = schema_of(database)
    install(database.path, ["items"])
    assert schema_of(database) == before
    install(database.path, ["pairs"])
    assert set(before) < set(schema_of(database))


def test_installing_what_does_not_exist_changes_nothing(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    before = schema_of(database)
    with pytest.raises(SchemaMismatch, match="nothing"):
        install(database.path, ["items", "nothing"])
    assert schema_of(database) == before


def test_looking_at_tables_leaves_no_trace(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    before = schema_of(database), sorted(tmp_path.iterdir())
    schemas = open_source("shop", f"sqlite:///{database.path}", ["pairs", "items"]).tables()
    assert [str(schema.table) for schema in schemas] == ["shop.items", "shop.pairs"]
    assert [schema.key for schema in schemas] == [("id",), ("a", "b")]
    assert (schema_of(database), sorted(tmp_path.iterdir())) == before


def test_changes_made_after_installing_wait_for_the_first_run(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    install(database.path, ["items"])
    database.write("DELETE FROM items WHERE id = 1")
    follower = database.follow("items")
    assert_agrees(follower)
    follower.close()


def test_a_writer_that_never_heard_of_raypipe_needs_nothing_of_it(tmp_path):
    with following(tmp_path, ["items"], *SCRIPT) as follower:
        strict = sqlite3.connect(follower.database.path, isolation_level=None)
        strict.execute("PRAGMA trusted_schema=OFF")
        strict.execute("PRAGMA foreign_keys=ON")
        strict.execute("PRAGMA case_sensitive_like=ON")
        strict.execute("REPLACE INTO items VALUES (5, 'a', 'Y')")
        strict.close()
        assert_agrees(follower)


def test_triggers_use_only_what_old_libraries_know(tmp_path):
    database = Database(tmp_path, *SCRIPT)
    install(database.path, ["items", "pairs"])
    text = " ".join(
        sql for kind, name, _, sql in schema_of(database) if kind == "trigger" and name.startswith("_raypipe_")
    ).lower()
    for newer in ("unixepoch", "over (", "returning", "->", "iif(", "nulls first", "is distinct", "unistr", "filter ("):
        assert newer not in text
