"""``raypipe init`` writes a file that a person can read and ``raypipe check`` accepts as it is."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest
from storefront import Command, Shop

from cluster.services.postgres import PostgresServer
from raypipe.cli.exits import Exit
from raypipe.demo.books import connect
from raypipe.spec import load


@pytest.mark.parametrize("database", ["shop.db", "./shop.db", "sqlite:///shop.db"])
def test_the_written_file_passes_check_as_it_is(shop: Shop, raypipe: Command, database: str) -> None:
    shop.file.unlink()
    written = raypipe("init", database)
    assert written.code == Exit.OK, written.err
    assert "Wrote pipeline.yaml with 3 tables" in written.out
    checked = raypipe("check")
    assert checked.code == Exit.OK, checked.err
    assert checked.err == ""
    assert "1 source with 3 tables, 1 step, 1 sink" in checked.out


def test_the_written_file_explains_itself_and_names_the_keys(shop: Shop, raypipe: Command) -> None:
    raypipe("init", "shop.db", "--force")
    text = shop.file.read_text()
    assert "- customers                # key: customer_id" in text
    assert "- events                   # no key: kept as a multiset of rows" in text
    assert "A step is a view" in text
    assert load(shop.file).sources["shop"].tables == ("customers", "events", "orders")


def test_names_that_need_quotes_or_are_reserved_are_written_so_that_they_pass(shop: Shop, raypipe: Command) -> None:
    strange = shop.folder / "main.db"
    shop.database.rename(strange)
    shop.database = strange
    shop.execute(
        """
        DROP TABLE customers; DROP TABLE orders; DROP TABLE events;
        CREATE TABLE "select" ("from" INTEGER PRIMARY KEY, "a ""b" TEXT, "ünï" TEXT);
        CREATE TABLE "1 weird: #name" (x, y);
        CREATE TABLE "no" (id INTEGER PRIMARY KEY);
        CREATE TABLE raypipe_own (id INTEGER PRIMARY KEY);
        CREATE TABLE "Case" (id INTEGER PRIMARY KEY);
        """
    )
    assert raypipe("init", "main.db", "--force").code == Exit.OK
    checked = raypipe("check")
    assert checked.code == Exit.OK, checked.err + shop.file.read_text()


def test_a_table_that_cannot_be_captured_is_left_out_with_the_reason(shop: Shop, raypipe: Command) -> None:
    shop.execute("CREATE TABLE hidden (rowid TEXT, _rowid_ TEXT, oid TEXT)")
    raypipe("init", "shop.db", "--force")
    assert "# Table 'hidden' cannot be captured" in shop.file.read_text()
    assert "hidden" not in load(shop.file).sources["shop"].tables
    assert raypipe("check").code == Exit.OK


def test_the_database_is_named_relative_to_the_file(shop: Shop, raypipe: Command) -> None:
    (shop.folder / "conf").mkdir()
    assert raypipe("init", shop.database, "--output", "conf/p.yaml").code == Exit.OK
    assert "url: sqlite:///../shop.db" in (shop.folder / "conf" / "p.yaml").read_text()
    assert raypipe("check", "conf/p.yaml").code == Exit.OK


def test_a_file_that_is_there_is_not_replaced_unasked(shop: Shop, raypipe: Command) -> None:
    before = shop.file.read_text()
    refused = raypipe("init", "shop.db")
    assert refused.code == Exit.USAGE
    assert "--force" in refused.err
    assert shop.file.read_text() == before


def test_the_file_can_go_to_stdout(shop: Shop, raypipe: Command) -> None:
    told = raypipe("init", "shop.db", "--output", "-")
    assert told.out.startswith("# A raypipe pipeline")


def test_what_is_no_database_is_refused(shop: Shop, raypipe: Command) -> None:
    Path("text.db").write_text("not a database, only some text that is long enough to be read as one" * 20)
    refused = raypipe("init", "text.db", "--force")
    assert refused.code == Exit.FAILED
    assert "not a sound database file" in refused.err


def test_a_database_without_tables_is_refused(shop: Shop, raypipe: Command) -> None:
    shop.execute("DROP TABLE customers; DROP TABLE orders; DROP TABLE events;")
    refused = raypipe("init", "shop.db", "--force")
    assert refused.code == Exit.USAGE
    assert "no table whose changes can be captured" in refused.err


def test_a_postgresql_database_is_written_without_its_password_and_passes_check(
    postgres18: PostgresServer, raypipe: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"init_{uuid.uuid4().hex[:8]}"
    with closing(connect(postgres18.url)) as server:
        server.run(f"CREATE DATABASE {name}")
        url = postgres18.url_of("raypipe", postgres18.password, name)
        with closing(connect(url)) as database:
            for statement in (
                "CREATE TABLE orders (id int PRIMARY KEY, note text)",
                "CREATE SCHEMA sales",
                "CREATE TABLE sales.items (id int PRIMARY KEY)",
                "CREATE TABLE sales.orders (id int PRIMARY KEY)",
                "CREATE TABLE untold (x int)",
            ):
                database.run(statement)
        assert raypipe("init", url, "--force").code == Exit.OK
        monkeypatch.setenv("PGPASSWORD", postgres18.password)
        text = shop.file.read_text()
        checked = raypipe("check")
        server.run(f"DROP DATABASE {name} WITH (FORCE)")
    assert postgres18.password not in text
    assert load(shop.file).sources[name].tables == ("orders", "sales.items")
    assert "# sales.orders would be called in SQL what orders is" in text
    assert "neither a primary key nor a replica identity" in text
    assert checked.code == Exit.OK, checked.err
