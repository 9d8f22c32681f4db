"""Who may read, over which connections, and what becomes of values that Arrow has no place for."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from postgres_database import Database, run
from reading import Reading

from raypipe.errors import Kind, RaypipeError, SchemaMismatch


def test_what_arrow_has_no_place_for_waits_in_quarantine_until_it_is_mended(database, read):
    database.write(
        "CREATE TABLE prices(id int PRIMARY KEY, price numeric(12,2), valid_to timestamptz)",
        "INSERT INTO prices VALUES (1, 9.5, 'infinity'), (2, 1, '2026-01-01'), (3, 'NaN', NULL)",
    )
    reading = read("prices").open().until_loaded()
    assert [row[0] for row in reading.present("prices")] == [2]
    assert waiting(reading) == {(1, "valid_to"), (3, "price")}
    database.write("INSERT INTO prices VALUES (4, 'NaN', NULL)", "UPDATE prices SET price = 'NaN' WHERE id = 2")
    reading.drain()
    assert waiting(reading) == {(1, "valid_to"), (3, "price"), (4, "price"), (2, "price")}
    assert not reading.present("prices")
    with reading.source.view() as view:
        assert view.parked("shop.prices") == 4
    database.write("UPDATE prices SET valid_to = '2026-01-01' WHERE id = 1", "DELETE FROM prices WHERE id = 3")
    reading.agree()
    assert waiting(reading) == {(4, "price"), (2, "price")}
    reading.open(reload=["shop.prices"]).until_loaded().agree()
    assert waiting(reading) == {(4, "price"), (2, "price")}
    database.write("TRUNCATE prices")
    reading.agree()
    assert waiting(reading) == set()


def waiting(reading) -> set[tuple]:
    """Key and column of the rows in quarantine."""
    return {
        (int(json.loads(row[1])[0]), row[2])
        for row in reading.present("_raypipe_quarantine")
        if row[0] == "shop.prices"
    }


def test_a_key_that_arrow_has_no_place_for_is_refused_by_name(database, read):
    database.write("CREATE TABLE days(day date PRIMARY KEY)", "INSERT INTO days VALUES ('infinity')")
    with pytest.raises(SchemaMismatch, match=r"Column day of the key .* text_columns=days.day"):
        read("days").open().until_loaded()


def test_columns_are_carried_as_text_on_demand(database, read):
    database.write(
        "CREATE TABLE prices(id int PRIMARY KEY, price numeric(12,2), valid_to timestamptz)",
        "INSERT INTO prices VALUES (1, 9.5, 'infinity')",
    )
    reading = read("prices", text_columns="prices.valid_to,prices.price").open().until_loaded()
    database.write("INSERT INTO prices VALUES (2, 'NaN', '-infinity')", "UPDATE prices SET price = 1 WHERE id = 1")
    reading.drain()
    assert reading.present("prices") == Counter([(1, "1.00", "infinity"), (2, "NaN", "-infinity")])
    reading.agree()


@pytest.fixture
def role(database: Database):
    name = f"r_{database.name}"
    run(database.server, f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'secret word'")
    yield name
    database.rows(f"DROP OWNED BY {name}")
    run(database.server, f"DROP ROLE {name}")


def as_role(database: Database, role: str, *tables: str) -> Reading:
    reading = Reading(database, tables)
    url = database.url.replace(database.url.split("//")[1].split("@")[0], f"{role}:secret%20word")
    reading._make = lambda: type(reading.source)("shop", url, tables)
    reading.source = reading._make()
    return reading


def test_the_grants_of_the_how_to_are_enough_and_none_is_too_much(database, role):
    database.write("CREATE SCHEMA sales", "CREATE TABLE sales.items(id int PRIMARY KEY, body text)")
    database.write("INSERT INTO sales.items VALUES (1, 'a')")
    reading = as_role(database, role, "sales.items")
    try:
        with pytest.raises(RaypipeError, match="Let the owner of the tables run: CREATE PUBLICATION"):
            reading.open()
        database.write(
            f'CREATE PUBLICATION "{database.slot}" FOR TABLE sales.items WITH (publish_via_partition_root = true)'
        )
        reading.open()
        with pytest.raises(RaypipeError, match="permission denied") as caught:
            reading.until_loaded()
        assert caught.value.kind is Kind.PIPELINE_FILE
        database.write(f"GRANT USAGE ON SCHEMA sales TO {role}", f"GRANT SELECT ON sales.items TO {role}")
        reading.open().until_loaded()
        database.write("INSERT INTO sales.items VALUES (2, 'b')", "DELETE FROM sales.items WHERE id = 1")
        reading.agree()
        assert reading.present("items") == Counter([(2, "b")])
    finally:
        reading.close()


def test_rows_hidden_by_a_policy_are_refused_not_left_out(database, role):
    database.write(
        "CREATE TABLE a(id int PRIMARY KEY)",
        "INSERT INTO a VALUES (1), (2)",
        "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY only_one ON a FOR SELECT TO {role} USING (id = 1)",
        f"GRANT SELECT ON a TO {role}",
        f'CREATE PUBLICATION "{database.slot}" FOR TABLE a WITH (publish_via_partition_root = true)',
    )
    reading = as_role(database, role, "a")
    try:
        with pytest.raises(RaypipeError, match="row-level security"):
            reading.open().until_loaded()
    finally:
        reading.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user": "nobody_here"}, "does not let user nobody_here in"),
        ({"password": "wrong"}, "does not let user"),
        ({"database": "no_such_database"}, "There is no database no_such_database"),
    ],
)
def test_a_url_that_does_not_work_is_the_pipeline_files_problem(database, change, words):
    user, password = database.url.split("//")[1].split("@")[0].split(":")
    url = database.url.replace(f"{user}:{password}@", f"{change.get('user', user)}:{change.get('password', password)}@")
    url = url.replace(f"/{database.name}?", f"/{change.get('database', database.name)}?")
    reading = Reading(database, ("a",))
    with pytest.raises(RaypipeError, match=words) as caught:
        type(reading.source)("shop", url, ("a",)).tables()
    assert caught.value.kind is Kind.PIPELINE_FILE
    assert password not in str(caught.value)


def test_a_server_that_is_away_is_retried(database):
    reading = Reading(database, ("a",))
    with pytest.raises(RaypipeError, match="does not answer") as caught:
        type(reading.source)("shop", "postgresql://u:p@127.0.0.1:1/d", ("a",)).tables()
    assert caught.value.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("url", ["postgresql://h/d", "postgresql://u@h", "postgresql://u@h/d?colour=red"])
def test_a_url_that_says_too_little_or_too_much_is_refused(url):
    from raypipe.sources import open_source

    with pytest.raises(RaypipeError) as caught:
        open_source("shop", url, ("a",))
    assert caught.value.kind is Kind.PIPELINE_FILE


def test_the_stream_and_the_copies_come_encrypted_and_the_server_is_checked(postgres15):
    database = Database(postgres15.url)
    try:
        database.write("CREATE TABLE a(id int PRIMARY KEY)", "INSERT INTO a SELECT generate_series(1, 5000)")
        authority = postgres15.certificates.authority
        reading = Reading(database, ("a",), sslmode="verify-full", sslrootcert=str(authority))
        reading.open()
        reading.step(5000)
        used = database.rows(
            "SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            f" WHERE application_name LIKE 'raypipe%{database.slot}'"
        )
        assert used[0][0] is True
        assert used[0][1] >= 2
        database.write("INSERT INTO a SELECT generate_series(10000, 60000)")
        reading.until_loaded().agree()
        reading.close()
    finally:
        database.close()


def test_a_certificate_instead_of_a_password(postgres15):
    run(postgres15.url, "DO $$ BEGIN CREATE ROLE raypipe_certified LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
    database = Database(postgres15.url)
    try:
        database.write("CREATE TABLE a(id int PRIMARY KEY)", "GRANT SELECT ON a TO raypipe_certified")
        certificates = postgres15.certificates
        user = database.url.split("//")[1].split("@")[0]
        url = database.url_with(
            sslmode="verify-ca",
            sslrootcert=str(certificates.authority),
            sslcert=str(certificates.client),
            sslkey=str(certificates.client_key),
        ).replace(f"{user}@", "raypipe_certified@")
        (schema,) = type(Reading(database, ("a",)).source)("shop", url, ("a",)).tables()
        assert schema.names == ("id",)
    finally:
        database.close()
