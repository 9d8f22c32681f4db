"""What writers do to a table, and how each of it must arrive."""

import sqlite3
from contextlib import closing

import pytest
from source_scene import assert_agrees, following

from raypipe.model import Op

ITEMS = "CREATE TABLE items(id INTEGER PRIMARY KEY, sku TEXT UNIQUE, grp INTEGER, note TEXT, UNIQUE (grp, note))"
PLAIN = "CREATE TABLE items(id INTEGER PRIMARY KEY, note TEXT)"
THREE = "INSERT INTO items VALUES (1, 'a', 1, 'x'), (2, 'b', 1, 'y'), (3, 'c', 2, 'z')"

BOTH = pytest.mark.parametrize("recursive", ["OFF", "ON"])


def after(tmp_path, script, *writes, tables=("items",), journal="wal"):
    """Ops that some writes arrive as; what they add up to has been compared with the table."""
    with following(tmp_path, tables, *script, journal=journal) as follower:
        follower.database.write(*writes)
        follower.drain()
        ops = list(follower.ops)
        assert_agrees(follower)
        return ops


@BOTH
def test_insert_or_replace_deletes_the_rows_it_removes_through_unique_constraints(tmp_path, recursive):
    ops = after(
        tmp_path,
        [ITEMS, THREE, f"PRAGMA recursive_triggers={recursive}"],
        "INSERT OR REPLACE INTO items VALUES (9, 'a', 1, 'y')",
    )
    assert ops == [Op.DELETE, Op.DELETE, Op.INSERT]


@BOTH
def test_insert_or_replace_of_the_same_key_deletes_the_old_row_first(tmp_path, recursive):
    ops = after(
        tmp_path,
        [ITEMS, THREE, f"PRAGMA recursive_triggers={recursive}"],
        "REPLACE INTO items VALUES (1, 'new', 5, 'new')",
    )
    assert ops == [Op.DELETE, Op.INSERT]


@BOTH
def test_update_or_replace_deletes_the_other_row(tmp_path, recursive):
    ops = after(
        tmp_path,
        [ITEMS, THREE, f"PRAGMA recursive_triggers={recursive}"],
        "UPDATE OR REPLACE items SET sku = 'b' WHERE id = 1",
    )
    assert ops == [Op.DELETE, Op.UPDATE_BEFORE, Op.UPDATE_AFTER]


@BOTH
def test_update_or_replace_of_the_rowid_alias_deletes_the_row_that_had_it(tmp_path, recursive):
    ops = after(
        tmp_path,
        [ITEMS, THREE, f"PRAGMA recursive_triggers={recursive}"],
        "UPDATE OR REPLACE items SET id = 2 WHERE id = 1",
    )
    assert ops == [Op.DELETE, Op.UPDATE_BEFORE, Op.UPDATE_AFTER]


def test_a_constraint_that_replaces_by_itself_is_seen_too(tmp_path):
    table = "CREATE TABLE items(id INTEGER PRIMARY KEY, sku TEXT UNIQUE ON CONFLICT REPLACE)"
    assert after(tmp_path, [table], "INSERT INTO items VALUES (1, 'a')", "INSERT INTO items VALUES (2, 'a')") == [
        Op.INSERT,
        Op.DELETE,
        Op.INSERT,
    ]


def test_replacing_by_an_explicit_rowid_is_seen_in_a_table_without_any_key(tmp_path):
    script = ["CREATE TABLE items(note TEXT)", "INSERT INTO items(rowid, note) VALUES (7, 'old')"]
    ops = after(tmp_path, script, "INSERT OR REPLACE INTO items(rowid, note) VALUES (7, 'new')")
    assert ops == [Op.DELETE, Op.INSERT]


@pytest.mark.parametrize(
    ("index", "write"),
    [
        ("(lower(sku))", "REPLACE INTO items(id, sku) VALUES (9, 'A')"),
        ("(sku COLLATE NOCASE)", "REPLACE INTO items(id, sku) VALUES (9, 'A')"),
        ("(lower(sku), length(note) DESC) WHERE grp = 1", "REPLACE INTO items VALUES (9, 'A', 1, 'q')"),
        ("(sku) WHERE note <> ''", "REPLACE INTO items VALUES (9, 'a', 4, 'w')"),
    ],
)
def test_replacing_through_expression_partial_and_collated_indexes_is_seen(tmp_path, index, write):
    table = "CREATE TABLE items(id INTEGER PRIMARY KEY, sku TEXT, grp INTEGER, note TEXT)"
    assert after(tmp_path, [table, f"CREATE UNIQUE INDEX one ON items{index}", THREE], write) == [Op.DELETE, Op.INSERT]


def test_a_partial_index_takes_nothing_from_outside_its_part(tmp_path):
    table = "CREATE TABLE items(id INTEGER PRIMARY KEY, sku TEXT, grp INTEGER, note TEXT)"
    index = "CREATE UNIQUE INDEX one ON items(sku) WHERE grp = 1"
    assert after(tmp_path, [table, index, THREE], "REPLACE INTO items VALUES (9, 'a', 2, '')") == [Op.INSERT]


def test_a_replaced_null_becomes_the_default_that_then_replaces_another_row(tmp_path):
    table = "CREATE TABLE items(id INTEGER PRIMARY KEY, sku TEXT NOT NULL DEFAULT 'd' UNIQUE)"
    script = [table, "INSERT INTO items VALUES (1, 'd')"]
    assert after(tmp_path, script, "INSERT OR REPLACE INTO items VALUES (2, NULL)") == [Op.DELETE, Op.INSERT]


def test_rows_that_or_ignore_kept_are_deleted_once_when_their_time_comes(tmp_path):
    ops = after(
        tmp_path,
        [ITEMS, THREE],
        "INSERT OR IGNORE INTO items VALUES (9, 'a', 9, '9'), (1, 'q', 9, '9'), (8, 'c', 1, 'x')",
        "UPDATE OR IGNORE items SET sku = 'b' WHERE id = 3",
        "UPDATE items SET sku = 'moved' WHERE id = 1",
        "INSERT INTO items VALUES (9, 'a', 9, '9')",
        "REPLACE INTO items VALUES (7, 'moved', 7, '7')",
        "DELETE FROM items WHERE sku = 'c'",
        "INSERT INTO items VALUES (3, 'c', 2, 'z')",
    )
    assert ops == [
        *(Op.UPDATE_BEFORE, Op.UPDATE_AFTER),
        Op.INSERT,
        *(Op.DELETE, Op.INSERT),
        Op.DELETE,
        Op.INSERT,
    ]


def test_an_ignored_bulk_insert_does_not_slow_down_the_writes_that_follow(tmp_path):
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4000)"
    with following(tmp_path, ["items"], ITEMS) as follower:
        database = follower.database
        database.write(f"{many} INSERT INTO items SELECT x, 's' || x, x, '' FROM n")
        steps = []
        database.writer.set_progress_handler(lambda: steps.append(1) or 0, 1000)
        database.write(f"{many} INSERT INTO items SELECT x + 10000, 'new' || x, x, 'new' FROM n")
        quiet = len(steps)
        database.write(f"{many} INSERT OR IGNORE INTO items SELECT x, 's' || x, x, 'q' FROM n")
        steps.clear()
        database.write(f"{many} INSERT INTO items SELECT x + 20000, 'newer' || x, x, 'newer' FROM n")
        assert len(steps) < 2 * quiet
        database.writer.set_progress_handler(None, 0)
        assert_agrees(follower)


def test_an_upsert_is_an_update_or_nothing(tmp_path):
    ops = after(
        tmp_path,
        [ITEMS, THREE],
        "INSERT INTO items VALUES (1, 'a', 1, 'x') ON CONFLICT (id) DO UPDATE SET note = 'upserted'",
        "INSERT INTO items VALUES (1, 'b', 1, 'x') ON CONFLICT (sku) DO NOTHING",
        "INSERT INTO items VALUES (6, 'f', 6, 'f') ON CONFLICT (sku) DO UPDATE SET note = 'no'",
    )
    assert ops == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER, Op.INSERT]


def test_foreign_key_cascades_arrive_as_changes_of_the_children(tmp_path):
    script = [
        "PRAGMA foreign_keys=ON",
        "CREATE TABLE parents(id INTEGER PRIMARY KEY, sku TEXT UNIQUE)",
        "CREATE TABLE owned(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE)",
        "CREATE TABLE loose(id INTEGER PRIMARY KEY, p REFERENCES parents ON DELETE SET NULL ON UPDATE SET NULL)",
        "INSERT INTO parents VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO owned VALUES (1, 1), (2, 1), (3, 2)",
        "INSERT INTO loose VALUES (1, 1), (2, 2)",
    ]
    with following(tmp_path, ["parents", "owned", "loose"], *script) as follower:
        follower.database.write("UPDATE parents SET id = 5 WHERE id = 2", "DELETE FROM parents WHERE id = 1")
        assert_agrees(follower)
        follower.database.write("DELETE FROM loose", "REPLACE INTO parents VALUES (7, 'b')")  # takes 5 and its children
        assert_agrees(follower)


def test_replacing_two_rows_of_a_tree_that_refers_to_itself_loses_nothing(tmp_path):
    script = [
        "PRAGMA foreign_keys=ON",
        "CREATE TABLE items(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT UNIQUE,"
        " up INTEGER REFERENCES items(id) ON DELETE SET NULL)",
        "INSERT INTO items VALUES (1, 'a1', 'b1', NULL), (2, 'a2', 'b2', 1), (3, 'a3', 'b3', 1), (4, 'a4', 'b4', 2)",
    ]
    ops = after(tmp_path, script, "REPLACE INTO items VALUES (9, 'a1', 'b2', NULL)")
    assert ops.count(Op.DELETE) == 2
    assert ops.count(Op.INSERT) == 1


def test_a_trigger_of_the_application_that_writes_the_same_table_is_followed(tmp_path):
    script = [
        ITEMS,
        THREE,
        "CREATE TRIGGER app AFTER INSERT ON items WHEN NEW.grp = 7 BEGIN"
        " REPLACE INTO items VALUES (NEW.id + 100, 'b', 8, 'by trigger'); END",
        "CREATE TRIGGER app2 BEFORE INSERT ON items WHEN NEW.grp = 7 BEGIN DELETE FROM items WHERE sku = 'c'; END",
    ]
    after(tmp_path, script, "REPLACE INTO items VALUES (1, 'q', 7, 'q')", "REPLACE INTO items VALUES (1, 'q', 7, 'q')")


def test_tables_without_rowid_are_followed_through_every_kind_of_change(tmp_path):
    table = (
        "CREATE TABLE items(a TEXT COLLATE NOCASE, b INTEGER, note TEXT, other TEXT UNIQUE, PRIMARY KEY (a, b))"
        " WITHOUT ROWID"
    )
    ops = after(
        tmp_path,
        [table, "INSERT INTO items VALUES ('x', 1, 'n', 'o1'), ('x', 2, 'n', 'o2'), ('y', 1, 'n', 'o3')"],
        "REPLACE INTO items VALUES ('X', 1, 'm', 'o2')",
        "UPDATE items SET a = 'z' WHERE a = 'y'",
        "UPDATE OR REPLACE items SET a = 'Z', b = 1 WHERE a = 'x'",
        "DELETE FROM items",
    )
    assert ops == [
        *(Op.DELETE, Op.DELETE, Op.INSERT),
        *(Op.UPDATE_BEFORE, Op.UPDATE_AFTER),
        *(Op.DELETE, Op.UPDATE_BEFORE, Op.UPDATE_AFTER),
        Op.DELETE,
    ]


def test_strict_tables_are_followed(tmp_path):
    table = "CREATE TABLE items(id INTEGER PRIMARY KEY, n INT, r REAL, t TEXT, b BLOB, x ANY) STRICT"
    after(
        tmp_path,
        [table, "INSERT INTO items VALUES (1, 1, 1, 'a', x'00', '007')"],
        "INSERT INTO items VALUES (2, NULL, 2.5, NULL, NULL, 7), (3, -9223372036854775808, 1e300, '', x'', x'07')",
        "UPDATE items SET x = 1.5 WHERE id = 1",
        "REPLACE INTO items(id) VALUES (2)",
    )


def test_composite_keys_identify_rows(tmp_path):
    table = "CREATE TABLE items(a TEXT, b INTEGER, note TEXT, PRIMARY KEY (b, a))"
    with following(tmp_path, ["items"], table) as follower:
        assert follower.source.tables()[0].key == ("b", "a")
        follower.database.write(
            "INSERT INTO items VALUES ('x', 1, 'n'), ('y', 1, 'm')",
            "UPDATE items SET b = 2 WHERE a = 'x'",
            "REPLACE INTO items VALUES ('y', 1, 'q')",
        )
        assert_agrees(follower)


def test_a_table_without_a_key_is_a_multiset(tmp_path):
    with following(tmp_path, ["items"], "CREATE TABLE items(a TEXT, b INTEGER)") as follower:
        assert follower.source.tables()[0].key == ()
        follower.database.write(
            "INSERT INTO items VALUES ('x', 1), ('x', 1), ('x', 1), (NULL, NULL)",
            "DELETE FROM items WHERE rowid = 2",
            "UPDATE items SET b = 2 WHERE rowid = 1",
        )
        follower.drain()
        assert sum(follower.tables["shop.items"].values()) == 3
        assert_agrees(follower)


def test_a_changed_primary_key_moves_the_row(tmp_path):
    ops = after(
        tmp_path,
        [PLAIN, "INSERT INTO items VALUES (1, 'a'), (2, 'b')"],
        "UPDATE items SET id = -id",
        "DELETE FROM items",
    )
    assert ops == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER] * 2 + [Op.DELETE] * 2


def test_delete_without_where_deletes_row_by_row(tmp_path):
    assert after(tmp_path, [ITEMS, THREE], "DELETE FROM items") == [Op.DELETE] * 3


def test_generated_columns_are_read_like_any_other(tmp_path):
    table = (
        "CREATE TABLE items(id INTEGER PRIMARY KEY, price REAL, n INTEGER, total REAL AS (price * n) STORED,"
        " tag TEXT GENERATED ALWAYS AS ('n' || n) VIRTUAL UNIQUE)"
    )
    with following(tmp_path, ["items"], table, "INSERT INTO items(id, price, n) VALUES (1, 1.5, 2)") as follower:
        follower.database.write(
            "UPDATE items SET n = 3 WHERE id = 1",
            "INSERT INTO items(price, n) VALUES (2, 4)",
            "REPLACE INTO items(id, price, n) VALUES (7, 2, 3)",  # takes row 1 through the generated tag
        )
        follower.drain()
        assert follower.ops[-2:] == [Op.DELETE, Op.INSERT]
        assert_agrees(follower)
        assert any(("total", "6.0") in row for row in follower.tables["shop.items"])


QUOTED = (
    'CREATE TABLE "order ""x"" items.é"("select" INTEGER PRIMARY KEY, "a b" TEXT UNIQUE, "new" TEXT, "o.x" TEXT, "seq")'
)


def test_names_that_need_quoting_are_followed(tmp_path):
    name = 'order "x" items.é'
    after(
        tmp_path,
        [QUOTED, """INSERT INTO "order ""x"" items.é" VALUES (1, 'a', 'b', 'c', 4), (2, 'b', 'b', 'c', 4)"""],
        """REPLACE INTO "order ""x"" items.é" VALUES (2, 'a', '', '', 1)""",
        """UPDATE "order ""x"" items.é" SET "new" = 'z'""",
        """ALTER TABLE "order ""x"" items.é" DROP COLUMN "o.x" """,
        tables=[name],
    )


def test_columns_called_like_the_rowid_and_like_raypipes_own_are_no_trap(tmp_path):
    table = "CREATE TABLE items(rowid TEXT, oid TEXT, id TEXT, rid TEXT, op TEXT, at TEXT, gone TEXT, one TEXT UNIQUE)"
    after(
        tmp_path,
        [table, "INSERT INTO items VALUES ('r', 'o', 'i', 'r', 'o', 'a', 'g', '1')"],
        "REPLACE INTO items VALUES ('r2', 'o', 'i', 'r', 'o', 'a', 'g', '1')",
        "UPDATE items SET gone = 'x', rid = NULL",
    )


def test_vacuum_changes_nothing(tmp_path):
    script = ["CREATE TABLE items(sku TEXT PRIMARY KEY, note TEXT)"]
    with following(tmp_path, ["items"], *script) as follower:
        follower.database.write(
            "INSERT INTO items VALUES ('a', 1), ('b', 2), ('c', 3)", "DELETE FROM items WHERE sku = 'a'", "VACUUM"
        )
        assert_agrees(follower)
        follower.database.write("UPDATE items SET note = 'after' WHERE sku = 'c'", "VACUUM")
        assert_agrees(follower)


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_every_journal_mode_is_followed(tmp_path, journal):
    ops = after(tmp_path, [ITEMS, THREE], "UPDATE items SET grp = 9 WHERE id = 2", journal=journal)
    assert ops == [Op.UPDATE_BEFORE, Op.UPDATE_AFTER]


def test_a_journal_mode_that_changes_on_the_way_is_followed(tmp_path):
    with following(tmp_path, ["items"], ITEMS, THREE, journal="delete") as follower:
        assert_agrees(follower)
        follower.source.close()
        follower.database.write("PRAGMA journal_mode=wal", "DELETE FROM items WHERE id = 1")
        follower.reopen()
        assert_agrees(follower)


def test_a_writer_that_attaches_the_database_under_another_name_is_followed(tmp_path):
    with following(tmp_path, ["items"], ITEMS, "CREATE UNIQUE INDEX late ON items(note, grp, sku)", THREE) as follower:
        with closing(sqlite3.connect(tmp_path / "other.db", isolation_level=None)) as other:
            other.execute("CREATE TABLE items(id INTEGER PRIMARY KEY, other TEXT)")
            other.execute("ATTACH ? AS theirs", (str(follower.database.path),))
            other.execute("BEGIN")
            other.execute("INSERT INTO items VALUES (1, 'not captured')")
            other.execute("REPLACE INTO theirs.items VALUES (1, 'b', 5, 'through attach')")
            other.execute("COMMIT")
        follower.drain()
        assert follower.ops == [Op.DELETE, Op.DELETE, Op.INSERT]
        assert_agrees(follower)


def test_what_is_rolled_back_was_never_there(tmp_path):
    with following(tmp_path, ["items"], ITEMS, THREE) as follower:
        follower.database.write("BEGIN", "DELETE FROM items", "ROLLBACK")
        assert follower.step() is None
        follower.database.write(
            *("BEGIN", "DELETE FROM items WHERE id = 1", "SAVEPOINT s", "DELETE FROM items", "ROLLBACK TO s", "COMMIT")
        )
        with pytest.raises(sqlite3.IntegrityError):
            follower.database.write("UPDATE items SET sku = 'same'")
        follower.drain()
        assert follower.ops == [Op.DELETE]
        assert_agrees(follower)


def test_the_writers_own_bookkeeping_is_not_disturbed(tmp_path):
    with following(tmp_path, ["items"], ITEMS, THREE) as follower:
        cursor = follower.database.writer.execute("INSERT INTO items VALUES (50, 's', 5, 's')")
        assert cursor.lastrowid == 50
        assert follower.database.writer.execute("UPDATE items SET grp = grp + 10").rowcount == 4
        assert follower.database.writer.execute("SELECT changes()").fetchone() == (4,)
