"""Histories drawn at random, with every conflict clause, over tables with many ways to conflict."""

import random
import sqlite3
from contextlib import suppress

import pytest
from source_scene import LITTLE, PLENTY, assert_agrees, following

TABLES = {
    "rowid alias": "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE COLLATE NOCASE, b INTEGER, c TEXT,"
    " UNIQUE (b, c))",
    "hidden rowid": "CREATE TABLE t(id TEXT PRIMARY KEY, a TEXT UNIQUE, b INTEGER UNIQUE ON CONFLICT REPLACE, c TEXT)",
    "without rowid": "CREATE TABLE t(id INTEGER, a TEXT COLLATE NOCASE, b INTEGER UNIQUE, c TEXT, PRIMARY KEY (a, id))"
    " WITHOUT ROWID",
    "no key": "CREATE TABLE t(id INTEGER, a TEXT, b INTEGER, c TEXT)",
    "application triggers": "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INTEGER, c TEXT)",
    "application triggers, text key": "CREATE TABLE t(id TEXT PRIMARY KEY, a TEXT UNIQUE, b INTEGER, c TEXT)",
    "tree": "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INTEGER REFERENCES t(id) ON DELETE CASCADE"
    " ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED, c TEXT UNIQUE)",
}
TRIGGERS = [  # they change the row that is being written, take it away, bring it back
    "CREATE TRIGGER IF NOT EXISTS stamp AFTER UPDATE OF a ON t BEGIN"
    " UPDATE t SET c = 'stamp' || NEW.b WHERE id = NEW.id; END",
    "CREATE TRIGGER IF NOT EXISTS refuse AFTER INSERT ON t WHEN NEW.b = 4 BEGIN DELETE FROM t WHERE id = NEW.id; END",
    "CREATE TRIGGER IF NOT EXISTS keep AFTER DELETE ON t WHEN OLD.b = 3 BEGIN"
    " INSERT OR IGNORE INTO t(id, a, b, c) VALUES (OLD.id, 'kept', 0, OLD.c); END",
    "DROP TRIGGER IF EXISTS stamp",
    "DROP TRIGGER IF EXISTS keep",
]
ALTERATIONS = [
    "CREATE UNIQUE INDEX u1 ON t(lower(c))",
    "CREATE UNIQUE INDEX u2 ON t(c) WHERE b > 1",
    "CREATE UNIQUE INDEX u3 ON t(extra, c)",
    "DROP INDEX IF EXISTS u1",
    "DROP INDEX IF EXISTS u2",
    "DROP INDEX IF EXISTS u3",
    "ALTER TABLE t ADD COLUMN extra TEXT",
    "ALTER TABLE t DROP COLUMN extra",
    "VACUUM",
    "PRAGMA recursive_triggers=ON",
    "PRAGMA recursive_triggers=OFF",
]


def statement(dice):
    clause = dice.choice(["", "OR REPLACE", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT"])
    row = f"{dice.randrange(8)}, '{dice.choice('abcdABCD')}', {dice.choice('01234')}, '{dice.choice('xyzXYZ')}'"
    where = f"WHERE {dice.choice(['id', 'b'])} {dice.choice('<=>')} {dice.randrange(8)}"
    return dice.choice(
        [
            f"INSERT {clause} INTO t(id, a, b, c) VALUES ({row})",
            f"INSERT INTO t(id, a, b, c) VALUES ({row}) ON CONFLICT DO NOTHING",
            f"UPDATE {clause} t SET id = {dice.randrange(8)} {where}",
            f"UPDATE {clause} t SET a = '{dice.choice('abcdABCD')}', b = {dice.choice('01234')} {where}",
            f"UPDATE {clause} t SET c = '{dice.choice('xyzXYZ')}' {where}",
            f"DELETE FROM t {where}",
        ]
    )


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_any_history_of_one_table_arrives(tmp_path, table, seed):
    dice = random.Random(seed)
    triggers = TRIGGERS if "a TEXT UNIQUE, b INTEGER, c TEXT)" in table else []
    with following(tmp_path, ["t"], "PRAGMA foreign_keys=ON", table, *triggers[:3]) as follower:
        for _ in range(60):
            for _ in range(dice.randrange(1, 12)):
                with suppress(sqlite3.IntegrityError, sqlite3.OperationalError):  # both leave the table as it was
                    alter = dice.choice(ALTERATIONS + triggers * 2)
                    follower.database.write(alter if dice.random() < 0.04 else statement(dice))
            if dice.random() < 0.2:
                follower.reopen()
            if dice.random() < 0.5:
                follower.step(dice.choice([LITTLE, PLENTY]))
            if dice.random() < 0.3 and follower.position:
                follower.source.acknowledge(follower.position)
            assert_agrees(follower)
