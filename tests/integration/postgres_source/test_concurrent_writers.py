"""Loads, views and completed rows are exact while several connections write without a pause."""

from __future__ import annotations

import random

import pytest
from reading import writers

from raypipe.model import Op

SCHEMA = (
    "CREATE TABLE accounts(id int PRIMARY KEY, owner text NOT NULL, balance int NOT NULL)",
    "ALTER TABLE accounts REPLICA IDENTITY FULL",
    'CREATE TABLE words(word text COLLATE "C", part int, note text, PRIMARY KEY (word, part))',
    "CREATE TABLE notes(body text, number int)",
    "ALTER TABLE notes REPLICA IDENTITY FULL",
    "CREATE TABLE pages(id int PRIMARY KEY, visits int NOT NULL, body text)",
    "ALTER TABLE pages ALTER COLUMN body SET STORAGE EXTERNAL",
)


def fill(database) -> None:
    database.write(
        *SCHEMA,
        "INSERT INTO accounts SELECT g, 'o' || g, 0 FROM generate_series(1, 3000) g",
        "INSERT INTO words SELECT md5((g / 2)::text), g, NULL FROM generate_series(1, 1500) g",
        "INSERT INTO notes SELECT 'n' || g % 50, g FROM generate_series(1, 1000) g",
        "INSERT INTO pages SELECT g, 0, repeat(md5(g::text), 100) FROM generate_series(1, 200) g",
    )


def some_changes(chance: random.Random) -> list[str]:
    """A transaction of a few statements on rows that others write too."""
    statements = []
    for _ in range(chance.randint(1, 4)):
        some = chance.randint(1, 3400)
        statements.append(
            chance.choice(
                [
                    f"UPDATE accounts SET balance = balance + 1 WHERE id = {some}",
                    f"DELETE FROM accounts WHERE id = {some}",
                    f"INSERT INTO accounts VALUES ({some}, 'again', 7) ON CONFLICT DO NOTHING",
                    f"UPDATE words SET note = '{some}' WHERE part = {some % 1500}",
                    f"UPDATE words SET word = md5('{chance.random()}') WHERE part = {some % 1500}",
                    f"INSERT INTO notes VALUES ('new', {some})",
                    f"DELETE FROM notes WHERE number = {some}",
                    f"UPDATE pages SET visits = visits + 1 WHERE id = {some % 200}",
                    f"UPDATE pages SET body = repeat('{some % 10}', 3000), visits = 0 WHERE id = {some % 200}",
                    f"UPDATE pages SET id = id + 1000 WHERE id = {some % 200}",
                    f"DELETE FROM pages WHERE id = {some % 200}",
                ]
            )
        )
    return [*statements, chance.choice(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"])]


TABLES = ("accounts", "words", "notes", "pages")


@pytest.fixture(params=["one by one", "side by side"])
def together(request, monkeypatch) -> bool:
    """Whether tables are loaded over several connections, as large ones are."""
    if request.param == "side by side":
        monkeypatch.setattr("raypipe.sources.postgres.copier.LARGE_BYTES", 0)
    return request.param == "side by side"


def copying(database) -> int:
    """Connections that copy tables of this database now."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '% copy %'"
    )
    return int(database.rows(sql)[0][0])


def test_large_tables_are_loaded_over_as_many_connections_as_the_url_allows(database, read, together):
    fill(database)
    reading = read("accounts", "words", "pages", copy_connections="2").open()
    reading.step(20_000)
    assert copying(database) == (2 if together else 1)
    reading.until_loaded(20_000)
    reading.agree()
    assert copying(database) == 0


@pytest.mark.usefixtures("together")
def test_loads_beside_writers_add_up_to_the_tables(database, read, seed):
    fill(database)
    reading = read(*TABLES).open()
    with writers(database, 3, seed, some_changes):
        reading.until_loaded(20_000)
        for _ in range(5):
            reading.agree()
    reading.agree()
    assert reading.ops("accounts").count(Op.TRUNCATE) == 1


@pytest.mark.usefixtures("together")
def test_a_reader_that_starts_again_and_again_while_it_loads_misses_nothing(database, read, seed):
    fill(database)
    reading = read("accounts", "words", "pages").open()
    with writers(database, 2, seed, some_changes):
        for _ in range(30):
            reading.step(20_000)
            reading.open()
        reading.until_loaded()
        reading.agree()
    reading.agree()


@pytest.mark.usefixtures("together")
def test_a_chunk_whose_rows_are_far_larger_than_those_before_is_cut_off_and_goes_on_behind(database, read):
    database.write(
        "CREATE TABLE narrow(id int PRIMARY KEY, body text)",
        "CREATE TABLE wide(id int PRIMARY KEY, body text)",
        "ALTER TABLE wide ALTER COLUMN body SET STORAGE EXTERNAL",
        "INSERT INTO narrow SELECT g, 'x' FROM generate_series(1, 5000) g",
        "INSERT INTO wide SELECT g, 'x' FROM generate_series(1, 5000) g",
        "ANALYZE",
        "INSERT INTO wide SELECT g, repeat(md5(g::text), 1000) FROM generate_series(5001, 5700) g",
    )
    reading = read("narrow", "wide").open()
    reading.until_loaded(1 << 20)
    reading.agree()
