"""Whatever is done to tables, in whatever order, beside writers: in the end everything is what it is in the source."""

from __future__ import annotations

import random

import pytest
from pg8000.exceptions import DatabaseError
from reading import ALTERED, writers

TABLES = ("a", "b")
ROUNDS = 10
MADE = "(id int PRIMARY KEY, price int, note text)"
# What may go wrong with a statement that was chosen by chance: a name is taken or gone, a value does not fit.
USELESS = ("42P07", "42701", "42703", "42P01", "42P16", "22003", "42804", "22P02", "23502", "42830", "0A000")


def an_alteration(chance: random.Random) -> list[str]:
    """One or a few statements of one transaction."""
    table, other = chance.sample(TABLES, 2)
    column, number = chance.choice(["c", "d", "e"]), chance.randint(1, 99)
    return chance.choice(
        [
            [f"ALTER TABLE {table} ADD COLUMN {column} int DEFAULT {number}"],
            [f"ALTER TABLE {table} ADD COLUMN {column} text DEFAULT md5(random()::text)"],
            [f"ALTER TABLE {table} ADD COLUMN {column} text", f"UPDATE {table} SET {column} = 'f' || id"],
            [f"UPDATE {table} SET price = 1", f"ALTER TABLE {table} ADD COLUMN {column} int NOT NULL DEFAULT {number}"],
            [f"ALTER TABLE {table} DROP COLUMN {column}"],
            [f"ALTER TABLE {table} RENAME COLUMN {column} TO {chance.choice('cdefg')}"],
            [f"ALTER TABLE {table} ALTER COLUMN price TYPE bigint"],
            [f"ALTER TABLE {table} ALTER COLUMN price TYPE int USING price + 1"],
            [f"ALTER TABLE {table} ALTER COLUMN {column} TYPE text"],
            [f"ALTER TABLE {table} ALTER COLUMN id TYPE {chance.choice(['int', 'bigint'])}"],
            [
                f"ALTER TABLE {table} RENAME TO x",
                f"ALTER TABLE {other} RENAME TO {table}",
                f"ALTER TABLE x RENAME TO {other}",
            ],
            [f"DROP TABLE {table}", f"CREATE TABLE {table}{MADE}", f"INSERT INTO {table} VALUES (1, {number}, 'anew')"],
            [f"TRUNCATE {table}", f"INSERT INTO {table}(id, price) VALUES (1, {number})"],
            [f"ALTER TABLE {table} SET (fillfactor = {10 + number % 90})"],
        ]
    )


def some_changes(chance: random.Random) -> list[str]:
    table, some = chance.choice(TABLES), chance.randint(1, 300)
    return [
        chance.choice(
            [
                f"UPDATE {table} SET price = {some} WHERE id % 50 = {some % 50}",
                f"DELETE FROM {table} WHERE id = {some}",
                f"INSERT INTO {table}(id, price, note) VALUES ({some}, 7, 'w') ON CONFLICT DO NOTHING",
                f"UPDATE {table} SET id = id + 1000 WHERE id = {some}",
            ]
        ),
        chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]),
    ]


def look_again(reading):
    """Has the catalog looked at once more, and waits until the stream has passed what it said.

    Twice: what was heard while a look waited for its place is left to the next one.
    """
    evolution = reading.source._open.reader._evolution
    for _ in range(2):
        evolution.wants_look = True
        while evolution.wants_look or evolution._look is not None:
            if reading.step(100_000) is None:
                reading.source.wait(0.05)


@pytest.mark.parametrize("streaming", ["off", "on"])
@pytest.mark.parametrize("triggers", ["on", "off"])
def test_tables_altered_by_chance_beside_writers_end_as_they_are_in_the_source(
    database, read, seed, triggers, streaming
):
    chance = random.Random(f"{seed} {triggers} {streaming}")
    for table in TABLES:
        database.write(
            f"CREATE TABLE {table}{MADE}", f"INSERT INTO {table} SELECT g, g, 'n' FROM generate_series(1, 300) g"
        )
    reading = read(*TABLES, event_triggers=triggers, streaming=streaming, decoding_memory="64kB").open().until_loaded()
    done = []
    with writers(database, 2, seed, some_changes, ALTERED):
        for _ in range(ROUNDS):
            statements = an_alteration(chance)
            try:
                (database.roll_back if chance.random() < 0.1 else database.write)(*statements)
                done.append(statements)
            except DatabaseError as error:
                if error.args[0]["C"] not in (*USELESS, *ALTERED):
                    raise
            for _ in range(chance.randint(0, 4)):
                reading.step(chance.choice([3_000, 100_000]))
            if chance.random() < 0.3:
                reading.open()
    print(f"seed {seed}: {done}")
    reading.until_loaded()
    look_again(reading)
    reading.until_loaded()
    reading.agree()
