"""Replica identities, large values, TRUNCATE, partitions, subtransactions and prepared transactions."""

from __future__ import annotations

from collections import Counter

import pytest

from raypipe.errors import SchemaMismatch
from raypipe.model import IMAGE, OP, Image, Op

LARGE = "repeat('x', 20000)"


def images(reading, table):
    return [
        (Op(row[OP]), Image(row[IMAGE]))
        for batch in reading.batches
        if batch.schema.table.table == table
        for row in batch.rows.to_pylist()
    ]


def test_the_default_identity_tells_keys_and_full_tells_rows(database, read):
    database.write(
        "CREATE TABLE keyed(id int PRIMARY KEY, body text)",
        "CREATE TABLE whole(id int PRIMARY KEY, body text)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE indexed(id int NOT NULL, code text NOT NULL, body text)",
        "CREATE UNIQUE INDEX by_code ON indexed(code)",
        "ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_code",
    )
    reading = read("keyed", "whole", "indexed").open().until_loaded()
    for table, row in (("keyed", "(1, 'a')"), ("whole", "(1, 'a')"), ("indexed", "(1, 'c', 'a')")):
        database.write(f"INSERT INTO {table} VALUES {row}")
        database.write(f"UPDATE {table} SET body = 'b'")
        database.write(f"DELETE FROM {table}")
    reading.drain()
    full, key = Image.FULL, Image.KEY
    ops = [Op.INSERT, Op.UPDATE_BEFORE, Op.UPDATE_AFTER, Op.DELETE]
    assert images(reading, "keyed") == list(zip(ops, [full, key, full, key], strict=True))
    assert images(reading, "whole") == list(zip(ops, [full] * 4, strict=True))
    assert images(reading, "indexed") == list(zip(ops, [full, key, full, key], strict=True))
    assert {batch.schema.table.table: batch.schema.key for batch in reading.batches} == {
        "keyed": ("id",),
        "whole": ("id",),
        "indexed": ("code",),
    }


@pytest.mark.parametrize("identity", ["DEFAULT", "NOTHING"])
def test_a_table_whose_changes_cannot_be_told_is_refused_before_it_is_published(database, read, identity):
    database.write("CREATE TABLE loose(body text)", f"ALTER TABLE loose REPLICA IDENTITY {identity}")
    reading = read("loose")
    with pytest.raises(SchemaMismatch, match="REPLICA IDENTITY FULL"):
        reading.open()
    assert database.rows("SELECT 1 FROM pg_publication") == []
    database.write("INSERT INTO loose VALUES ('a')", "UPDATE loose SET body = 'b'", "DELETE FROM loose")


def test_what_has_no_changes_of_its_own_is_refused(database, read):
    database.write(
        "CREATE TABLE base(id int PRIMARY KEY)",
        "CREATE VIEW seen AS SELECT * FROM base",
        "CREATE UNLOGGED TABLE fleeting(id int PRIMARY KEY)",
    )
    with pytest.raises(SchemaMismatch, match="a view"):
        read("seen").source.tables()
    with pytest.raises(SchemaMismatch, match="an unlogged table"):
        read("fleeting").source.tables()


def test_a_large_value_that_an_update_leaves_alone_arrives_all_the_same(database, read):
    database.write(
        "CREATE TABLE pages(id int PRIMARY KEY, visits int, body text, other text)",
        "ALTER TABLE pages ALTER body SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL",
        f"INSERT INTO pages SELECT g, 0, {LARGE} || g, CASE WHEN g < 3 THEN {LARGE} END FROM generate_series(1, 5) g",
    )
    reading = read("pages").open().until_loaded()
    database.write("UPDATE pages SET visits = 1")
    database.write("UPDATE pages SET visits = 2 WHERE id = 1", "UPDATE pages SET body = 'small' WHERE id = 1")
    database.write("UPDATE pages SET id = 20, visits = 3 WHERE id = 2", "UPDATE pages SET visits = 4 WHERE id = 20")
    database.write("UPDATE pages SET visits = 5 WHERE id = 3", "DELETE FROM pages WHERE id = 3")
    reading.drain(2000)
    assert reading.whole
    assert reading.present("pages") == Counter(tuple(row) for row in database.rows("SELECT * FROM pages"))
    reading.agree()


def test_large_values_are_right_at_the_cut_of_a_view_taken_before_they_changed(database, read):
    database.write(
        "CREATE TABLE pages(id int PRIMARY KEY, visits int, body text)",
        "ALTER TABLE pages ALTER body SET STORAGE EXTERNAL",
        f"INSERT INTO pages VALUES (1, 0, {LARGE})",
    )
    reading = read("pages").open().until_loaded()
    database.write("UPDATE pages SET visits = 1")
    with reading.source.view() as view:
        database.write(f"UPDATE pages SET body = 'y' || {LARGE}")
        reading.drain(upto=view.position)
        assert reading.whole
        assert reading.present("pages") == Counter([(1, 1, "x" * 20000)])
    reading.drain()
    assert reading.present("pages") == Counter([(1, 1, "y" + "x" * 20000)])


def test_a_truncate_is_carried_through_in_its_place(database, read):
    database.write("CREATE TABLE a(id int PRIMARY KEY)", "CREATE TABLE b(id int PRIMARY KEY REFERENCES a)")
    reading = read("a", "b").open().until_loaded()
    database.write("INSERT INTO a VALUES (1), (2)", "INSERT INTO b VALUES (1)")
    database.write("INSERT INTO a VALUES (3)", "TRUNCATE a CASCADE", "INSERT INTO a VALUES (4)")
    reading.drain()
    assert reading.ops("a") == [Op.INSERT] * 3 + [Op.TRUNCATE, Op.INSERT]
    assert reading.ops("b") == [Op.INSERT, Op.TRUNCATE]
    assert reading.present("a") == Counter([(4,)])
    reading.agree()


def test_a_truncate_while_the_table_is_loaded(database, read):
    database.write("CREATE TABLE a(id int PRIMARY KEY, body text)")
    database.write("INSERT INTO a SELECT g, 'x' FROM generate_series(1, 500) g")
    reading = read("a").open()
    reading.step(2000)
    assert reading.loading
    database.write("TRUNCATE a", "INSERT INTO a SELECT g, 'y' FROM generate_series(1, 300) g")
    reading.until_loaded(2000).agree()


def test_partitions_are_read_as_their_root(database, read):
    database.write(
        "CREATE TABLE events(id int, day date, body text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        "INSERT INTO events SELECT g, '2026-01-10'::date + g % 40, 'x' FROM generate_series(1, 50) g",
    )
    reading = read("events").open().until_loaded(2000)
    assert sum(reading.present("events").values()) == 50
    database.write("UPDATE events SET day = '2026-02-15' WHERE id = 1", "DELETE FROM events_2 WHERE id = 30")
    database.write("CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')")
    database.write("INSERT INTO events VALUES (100, '2026-03-05', 'new')")
    reading.agree()


def test_rolled_back_subtransactions_and_prepared_transactions(database, read):
    database.write("CREATE TABLE a(id int PRIMARY KEY)")
    reading = read("a").open().until_loaded()
    database.write(
        "INSERT INTO a VALUES (1)",
        "SAVEPOINT s",
        "INSERT INTO a VALUES (2)",
        "ROLLBACK TO s",
        "INSERT INTO a VALUES (3)",
    )
    for statement in ("BEGIN", "INSERT INTO a VALUES (4)", f"PREPARE TRANSACTION '{database.name}-1'"):
        database.rows(statement)
    for statement in ("BEGIN", "INSERT INTO a VALUES (5)", f"PREPARE TRANSACTION '{database.name}-2'"):
        database.rows(statement)
    reading.drain()
    assert reading.present("a") == Counter([(1,), (3,)])
    database.rows(f"COMMIT PREPARED '{database.name}-1'")
    database.rows(f"ROLLBACK PREPARED '{database.name}-2'")
    reading.agree()
    assert reading.present("a") == Counter([(1,), (3,), (4,)])


def test_keys_of_any_type_are_ordered_as_the_server_orders_them(database, read):
    database.write(
        "CREATE TABLE by_text(word text, PRIMARY KEY (word))",
        "CREATE TABLE by_many(a numeric, b timestamptz, c bytea, d uuid, PRIMARY KEY (a, b, c, d))",
        "CREATE TABLE by_char(code char(5) PRIMARY KEY)",
        r"INSERT INTO by_text SELECT chr(32 + g % 90) || E'\\\"''{},' || md5(g::text) FROM generate_series(1, 400) g",
        "INSERT INTO by_many SELECT g % 7 / 3.0, '2026-01-01'::timestamptz + g * interval '7 min',"
        " decode(md5(g::text), 'hex'), md5(g::text)::uuid FROM generate_series(1, 400) g",
        "INSERT INTO by_char SELECT substr(md5(g::text), 1, 3) FROM generate_series(1, 300) g ON CONFLICT DO NOTHING",
    )
    reading = read("by_text", "by_many", "by_char").open()
    for turn in range(40):
        reading.step(3000)
        database.write(
            f"DELETE FROM by_text WHERE word LIKE '%{turn % 10}a%'",
            f"UPDATE by_many SET a = a + 0.5 WHERE d::text LIKE '%{turn % 10}b%'",
            f"INSERT INTO by_char VALUES ('~{turn}') ON CONFLICT DO NOTHING",
        )
    reading.until_loaded(3000).agree()
