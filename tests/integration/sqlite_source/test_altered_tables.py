"""Tables altered, dropped and made again by a writer that knows nothing of raypipe."""

import pytest
from source_scene import LITTLE, assert_agrees, following

from raypipe.errors import SchemaMismatch
from raypipe.model import Op
from raypipe.sources.sqlite import install

ITEMS = "CREATE TABLE items(id INTEGER PRIMARY KEY, sku TEXT, price DECIMAL(10, 2), note TEXT)"
OTHER = "CREATE TABLE other(id INTEGER PRIMARY KEY, n INTEGER)"
ROWS = "INSERT INTO items VALUES (1, 'a', 1.50, 'x'), (2, 'b', 2, 'y'), (3, 'c', 3.25, NULL)"
LOAD = [Op.TRUNCATE, Op.READ, Op.READ, Op.READ]


@pytest.fixture
def follower(tmp_path):
    with following(tmp_path, ["items", "other"], ITEMS, OTHER, ROWS) as follower:
        yield follower


def version(follower, table="items"):
    return next(schema.version for schema in follower.source.tables() if schema.table.table == table)


def test_an_added_column_that_holds_only_null_needs_no_reload(follower):
    follower.database.write("ALTER TABLE items ADD COLUMN extra TEXT", "UPDATE items SET note = 'z' WHERE id = 1")
    follower.drain()
    assert follower.ops == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER]
    follower.database.write("UPDATE items SET extra = 'now' WHERE id = 2")
    follower.drain()
    assert follower.ops == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER]
    assert version(follower) == 2
    assert_agrees(follower)


@pytest.mark.parametrize(
    "alter",
    [
        ["ALTER TABLE items ADD COLUMN extra INTEGER DEFAULT 7"],
        ["ALTER TABLE items ADD COLUMN extra TEXT", "UPDATE items SET extra = 'written before we looked' WHERE id = 2"],
        ["ALTER TABLE items ADD COLUMN extra TEXT AS (sku || id)"],
        ["ALTER TABLE items DROP COLUMN note"],
        ["ALTER TABLE items DROP COLUMN note", "UPDATE items SET price = 9 WHERE id = 2"],
        ["ALTER TABLE items RENAME COLUMN price TO amount"],
        ["ALTER TABLE items RENAME COLUMN price TO amount", "UPDATE items SET amount = 9 WHERE id = 2"],
        ["ALTER TABLE items RENAME COLUMN id TO number", "UPDATE items SET number = 9 WHERE sku = 'a'"],
    ],
    ids=" then ".join,
)
def test_an_altered_table_is_loaded_again_under_its_new_schema(follower, alter):
    follower.database.write("UPDATE items SET sku = 'before' WHERE id = 3", *alter)
    follower.drain()
    assert follower.ops[:2] == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER]
    assert follower.ops[-4:] == LOAD
    assert_agrees(follower)
    assert version(follower) == 2
    follower.database.write("UPDATE items SET sku = 'after'", "INSERT INTO items(sku) VALUES ('more')")
    follower.drain()
    assert follower.ops == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER] * 3 + [Op.INSERT]
    assert_agrees(follower)


def test_changes_before_the_alteration_come_under_the_old_schema_with_their_values(follower):
    follower.database.write("UPDATE items SET note = 'old value' WHERE id = 1", "ALTER TABLE items DROP COLUMN note")
    batches = [batch for piece in follower.drain() for batch in piece.batches]
    assert [batch.schema.version for batch in batches] == [1, 2]
    assert batches[0].rows.column("note").to_pylist() == ["x", "old value"]
    assert "note" not in batches[1].rows.schema.names


def test_no_cut_lies_between_an_alteration_and_the_reload_that_follows_it(follower):
    follower.database.write("ALTER TABLE items DROP COLUMN note", "UPDATE items SET price = 5")
    pieces = follower.drain()
    assert [piece.boundary for piece in pieces] == [False, True]


def test_a_dropped_table_is_empty_and_loaded_when_it_comes_back(follower):
    follower.database.write("DROP TABLE items", "INSERT INTO other VALUES (1, 1)")
    follower.drain()
    assert follower.ops == [Op.INSERT, Op.TRUNCATE]
    assert not follower.loading
    assert_agrees(follower)
    follower.database.write("CREATE TABLE items(id TEXT PRIMARY KEY, n REAL)", "INSERT INTO items VALUES ('x', 1.5)")
    follower.drain()
    assert follower.ops == [Op.TRUNCATE, Op.READ]
    assert version(follower) == 2
    assert_agrees(follower)


def test_a_table_dropped_and_made_again_between_two_looks_is_loaded_again(follower):
    follower.database.write(
        "UPDATE items SET note = 'lost' WHERE id = 1", "DROP TABLE items", ITEMS, "INSERT INTO items(id) VALUES (9)"
    )
    follower.drain()
    assert follower.ops == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER, Op.TRUNCATE, Op.READ]
    assert_agrees(follower)


def test_a_table_rebuilt_the_way_migration_tools_do_it_is_followed(follower):
    follower.database.write(
        "BEGIN",
        "CREATE TABLE items_new(id INTEGER PRIMARY KEY, sku TEXT NOT NULL, price REAL)",
        "INSERT INTO items_new SELECT id, sku, price FROM items",
        "DROP TABLE items",
        "ALTER TABLE items_new RENAME TO items",
        "COMMIT",
        "DELETE FROM items WHERE id = 1",
    )
    assert_agrees(follower)
    follower.database.write("INSERT INTO items VALUES (7, 's', 1)")
    assert_agrees(follower)


def test_a_table_renamed_away_is_gone_and_its_triggers_with_it(follower):
    follower.database.write("ALTER TABLE items RENAME TO archive", "INSERT INTO archive(id) VALUES (70)")
    assert_agrees(follower)
    assert "shop.items" in follower.tables
    assert not follower.tables["shop.items"]
    triggers = follower.database.writer.execute("SELECT count(*) FROM sqlite_master WHERE tbl_name = 'archive'")
    assert triggers.fetchone() == (1,)  # the table itself
    follower.database.write(ITEMS, "INSERT INTO items(id) VALUES (1)", "INSERT INTO archive(id) VALUES (71)")
    assert_agrees(follower)


def test_columns_can_come_and_go_while_nobody_reads(follower):
    follower.source.close()
    follower.database.write(
        "CREATE UNIQUE INDEX by_sku ON items(sku)",
        "ALTER TABLE items RENAME COLUMN note TO remark",
        "ALTER TABLE items ADD COLUMN more TEXT DEFAULT 'm'",
        "DROP INDEX by_sku",
        "ALTER TABLE items DROP COLUMN sku",
        "ALTER TABLE items DROP COLUMN price",
        "INSERT INTO items(id, more) VALUES (4, 'n')",
        "DELETE FROM items WHERE id = 1",
    )
    follower.reopen()
    assert_agrees(follower)


def test_a_column_of_a_unique_index_can_be_dropped_once_the_index_is(follower):
    follower.database.write("CREATE UNIQUE INDEX by_sku ON items(sku) WHERE price > 0")
    follower.database.write("CREATE UNIQUE INDEX by_note ON items(lower(note), price)")
    follower.drain()  # the triggers know the indexes now
    follower.database.write(
        "DROP INDEX by_sku",
        "DROP INDEX by_note",
        "ALTER TABLE items DROP COLUMN sku",
        "ALTER TABLE items DROP COLUMN note",
        "ALTER TABLE items DROP COLUMN price",
        "REPLACE INTO items VALUES (1), (7)",
    )
    assert_agrees(follower)


def test_deletes_through_a_unique_index_made_later_are_not_lost(follower):
    follower.database.write("CREATE UNIQUE INDEX by_sku ON items(sku)", "REPLACE INTO items(id, sku) VALUES (9, 'a')")
    assert_agrees(follower)  # by a reload: nobody saw that delete
    follower.database.write("REPLACE INTO items(id, sku) VALUES (10, 'b')")
    follower.drain()
    assert follower.ops == [Op.DELETE, Op.INSERT]
    assert_agrees(follower)


def test_a_unique_index_made_while_nobody_writes_needs_no_reload(follower):
    follower.database.write("CREATE UNIQUE INDEX by_sku ON items(sku)")
    follower.drain()
    assert follower.ops == []
    follower.database.write("REPLACE INTO items(id, sku) VALUES (10, 'b')", "DROP INDEX by_sku")
    follower.drain()
    assert follower.ops == [Op.DELETE, Op.INSERT]
    assert version(follower) == 1


def test_writes_stay_cheap_when_a_unique_index_is_dropped_and_nobody_reads(follower):
    many = "WITH RECURSIVE n(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM n WHERE x < 5000)"
    follower.database.write("CREATE UNIQUE INDEX by_sku ON items(sku)", f"{many} INSERT INTO items(id) SELECT x FROM n")
    follower.drain()
    follower.database.write("DROP INDEX by_sku")
    steps = []
    follower.database.writer.set_progress_handler(lambda: steps.append(1) or 0, 100)
    follower.database.write("INSERT INTO items(id, sku) VALUES (6000, 'q')")
    follower.database.writer.set_progress_handler(None, 0)
    assert len(steps) < 20  # not a step for each of the 5,000 rows


def test_alterations_of_several_tables_at_once_are_one_event(follower):
    follower.database.write(
        "INSERT INTO other VALUES (1, 1)",
        "ALTER TABLE items DROP COLUMN note",
        "ALTER TABLE other ADD COLUMN m DEFAULT 1",
    )
    pieces = follower.drain(LITTLE)
    assert pieces[-1].boundary
    assert_agrees(follower)


def test_somebody_who_drops_the_triggers_costs_a_reload_and_no_change(follower):
    (name,) = follower.database.writer.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'items' AND name LIKE '%delete'"
    ).fetchone()
    follower.database.write(f"DROP TRIGGER {name}", "DELETE FROM items WHERE id = 1")
    assert_agrees(follower)


def test_an_alteration_is_noticed_by_a_view_too(follower):
    follower.database.write("UPDATE items SET note = 'z'", "ALTER TABLE items DROP COLUMN note")
    with follower.make().view() as view:
        assert all("note" not in batch.schema.names for batch in view.rows("shop.items"))
        follower.drain(upto=view.position)
        assert follower.ops[-1] is Op.READ
        assert not follower.loading


def test_alterations_in_the_middle_of_a_load_begin_it_anew(tmp_path):
    rows = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50) INSERT INTO items(id, sku)"
    with following(tmp_path, ["items"], ITEMS, f"{rows} SELECT x, 's' || x FROM n") as follower:
        follower.reopen(reload=["shop.items"])
        for _ in range(5):
            follower.step(LITTLE)
        assert follower.loading
        follower.database.write("ALTER TABLE items DROP COLUMN price", "UPDATE items SET note = 'n' WHERE id % 2")
        follower.step(LITTLE)
        follower.database.write("ALTER TABLE items ADD COLUMN late TEXT DEFAULT 'l'")
        assert_agrees(follower)


def test_what_cannot_be_captured_is_refused_by_name(tmp_path):
    with following(tmp_path, ["other"], OTHER, "CREATE VIEW seen AS SELECT 1") as follower:
        with pytest.raises(SchemaMismatch, match="views"):
            install(follower.database.path, ["seen"])
        follower.database.write("CREATE TABLE odd(rowid, _rowid_, oid)", "CREATE TABLE ours(_raypipe_op)")
        with pytest.raises(SchemaMismatch, match="rowid"):
            install(follower.database.path, ["odd"])
        with pytest.raises(SchemaMismatch, match="_raypipe_"):
            install(follower.database.path, ["ours"])
