"""The event triggers themselves: who may have them, that nobody's DDL fails by them, that they leave no trace."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing

import pytest
from postgres_database import Database
from test_access_and_values import as_role, role
from test_altered_postgres_tables import settle
from test_postgres_pipeline import PIPELINE, SCHEMA, wrong

from raypipe import faults
from raypipe.errors import Kind, RaypipeError
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.model import Op
from raypipe.spec import load
from raypipe.verify import verify

__all__ = ["role"]

TRACES = """SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_namespace
  WHERE nspname LIKE 's\\_t\\_%') + (SELECT count(*) FROM pg_proc WHERE proname = 'tell_ddl')"""


@pytest.fixture(params=["postgres18", "postgres16", "postgres15"])
def database(request):
    database = Database(request.getfixturevalue(request.param).url)
    yield database
    database.close()


@pytest.fixture
def reading(database, read):
    database.write("CREATE TABLE items(id int PRIMARY KEY, price int)", "INSERT INTO items VALUES (1, 1), (2, 2)")
    return read("items").open().until_loaded()


def test_whoever_may_make_event_triggers_has_them_and_they_go_without_a_trace(database, reading):
    assert database.rows(TRACES) == [[5]]
    reading.source.install()
    assert database.rows(TRACES) == [[5]]
    reading.source.close()
    reading.source.remove()
    assert database.rows(TRACES) == [[0]]
    reading.source.remove()


def test_triggers_that_are_not_whole_or_not_on_are_made_again(database, reading):
    database.rows(f"DROP EVENT TRIGGER {database.slot}_drop")
    database.rows(f"ALTER EVENT TRIGGER {database.slot}_end DISABLE")
    reading.open()
    assert not reading.source._open.reader._evolution.told  # of what happened meanwhile
    reading.drain()
    assert reading.source._open.reader._evolution.told
    assert database.rows(TRACES) == [[5]]


def test_what_was_altered_before_there_were_triggers_is_found_nevertheless(database, read):
    database.write("CREATE TABLE items(id int PRIMARY KEY, price int)", "INSERT INTO items VALUES (1, 1), (2, 2)")
    reading = read("items", event_triggers="off").open().until_loaded()
    reading.source.close()
    database.rows("ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2")
    reading.options["event_triggers"] = "on"
    reading.open()
    settle(reading)
    reading.agree()
    database.rows("ALTER TABLE items ALTER COLUMN price TYPE int USING price * 2")
    reading.drain()
    reading.until_loaded().agree()


def test_a_schema_of_the_name_that_is_somebody_elses_is_left_alone(database, read, caplog):
    database.write("CREATE TABLE items(id int PRIMARY KEY)", f"CREATE SCHEMA {database.slot}")
    reading = read("items")
    with caplog.at_level("INFO", "raypipe"):
        reading.open().until_loaded()
    assert "cannot create event triggers" in caplog.text
    reading.source.close()
    reading.source.remove()
    assert database.rows(TRACES) == [[1]]


def test_a_role_without_the_right_reads_on_by_looks_at_the_catalog(database, role, caplog):
    database.write("CREATE TABLE items(id int PRIMARY KEY)", "INSERT INTO items VALUES (1)")
    database.rows(f"GRANT SELECT ON items TO {role}")
    database.rows(f"GRANT CREATE ON DATABASE {database.name} TO {role}")
    database.rows(f"CREATE PUBLICATION {database.slot} FOR TABLE items WITH (publish_via_partition_root = true)")
    with closing(as_role(database, role, "items")) as reading, caplog.at_level("INFO", "raypipe"):
        reading.open().until_loaded()
        assert "this user cannot create event triggers" in caplog.text
        assert database.rows(TRACES) == [[0]]
        database.rows("ALTER TABLE items ADD COLUMN stock int DEFAULT 7")
        settle(reading)
        reading.agree()


def test_a_role_without_the_right_uses_triggers_that_somebody_else_has_made(database, role, reading):
    reading.source.close()
    database.rows(f"GRANT SELECT ON items TO {role}")
    with closing(as_role(database, role, "items")) as own:
        own.open().until_loaded()
        assert own.source._open.reader._evolution.told
        database.write("UPDATE items SET price = 5", "DROP TABLE items")
        own.drain()
        assert own.ops("items")[-1] is Op.TRUNCATE
        own.source.close()
        with pytest.raises(RaypipeError, match="may not drop the event triggers") as refused:
            own.source.remove()
        assert refused.value.kind is Kind.PIPELINE_FILE
        assert "DROP EVENT TRIGGER" in refused.value.remedy


def test_nobodys_ddl_fails_by_a_function_that_fails(database, reading):
    """Whoever alters tables may read the catalog, under any search path; if not even that, nothing happens."""
    database.rows("CREATE SCHEMA evil")
    database.rows(
        'CREATE FUNCTION evil.jsonb_build_object(VARIADIC "any") RETURNS jsonb LANGUAGE internal IMMUTABLE'
        " AS 'jsonb_build_object_noargs'"
    )
    database.rows("SET search_path = evil, public, pg_catalog")
    database.rows("ALTER TABLE public.items ADD COLUMN stock int DEFAULT 7")
    database.rows("RESET search_path")
    settle(reading)
    reading.agree()
    database.rows("REVOKE SELECT ON pg_catalog.pg_class FROM PUBLIC")
    owner = f"o_{database.name}"
    database.rows(f"CREATE ROLE {owner}")
    database.rows(f"GRANT CREATE ON SCHEMA public TO {owner}")
    try:
        database.write(
            f"SET LOCAL ROLE {owner}",
            "CREATE TABLE theirs(id int)",
            "ALTER TABLE theirs ADD COLUMN more int DEFAULT 1",
            "DROP TABLE theirs",
        )
    finally:
        database.rows(f"DROP OWNED BY {owner}")
        database.rows(f"DROP ROLE {owner}")


def test_ddl_on_tables_that_nobody_chose_is_as_before(database, reading):
    database.write(
        "CREATE TEMP TABLE t(id int) ON COMMIT DROP",
        "CREATE TABLE other(id int PRIMARY KEY)",
        "CREATE VIEW v AS SELECT * FROM other",
        "CREATE INDEX ON other(id)",
        "CREATE SCHEMA s CREATE TABLE inside(id int)",
        "ALTER SCHEMA s RENAME TO s2",
        "CREATE TYPE mood AS ENUM ('ok')",
        "GRANT SELECT ON other TO PUBLIC",
        "SAVEPOINT here",
        "DROP SCHEMA s2 CASCADE",
        "ROLLBACK TO here",
        "DROP VIEW v",
        "DROP TABLE other",
    )
    settle(reading)
    assert Op.TRUNCATE in reading.ops("items")  # of its first load
    assert reading.ops("items").count(Op.TRUNCATE) == 1


def test_a_schema_that_is_renamed_takes_its_tables_along(database, read):
    database.write("CREATE SCHEMA s", "CREATE TABLE s.items(id int PRIMARY KEY)", "INSERT INTO s.items VALUES (1)")
    reading = read("s.items").open().until_loaded()
    database.rows("ALTER SCHEMA s RENAME TO s2")
    reading.drain()
    assert reading.ops("items") == [Op.TRUNCATE]
    database.rows("ALTER SCHEMA s2 RENAME TO s")
    settle(reading)
    reading.agree()
    assert sum(reading.present("items").values()) == 1


def test_what_the_messages_say_is_what_the_documentation_says(database, reading):
    reading.source.close()
    database.rows(
        "ALTER TABLE items ADD COLUMN a int NOT NULL DEFAULT 7, ADD COLUMN b text, ADD COLUMN c text DEFAULT md5('')"
    )
    messages = database.rows(
        f"SELECT data FROM pg_logical_slot_peek_binary_changes('{database.slot}', NULL, NULL, 'proto_version', '1',"
        f" 'publication_names', '{database.slot}', 'messages', 'true') WHERE get_byte(data, 0) = ascii('M')"
    )
    # Behind kind, flags and LSN: the prefix, its end, four bytes of length.
    contents = [bytes(row[0])[10:].partition(b"\0")[2][4:] for row in messages]
    told = [json.loads(content) for content in contents if content.startswith(b"{")]
    altered = [each for each in told if each["event"] == "ddl_command_end"][-1]
    assert (altered["tag"], altered["schema"], altered["table"], altered["key"]) == (
        "ALTER TABLE",
        "public",
        "items",
        ["id"],
    )
    new = {each["name"]: (each["default"], each["not_null"], each["storage"]) for each in altered["columns"]}
    assert new == {
        "id": ("none", True, "p"),
        "price": ("none", False, "p"),
        "a": ("constant", True, "p"),
        "b": ("none", False, "x"),
        "c": ("constant", False, "x"),
    }


def test_a_copy_of_the_database_is_not_disturbed(database, reading, postgres15):
    """By pg_dump and restore; of the version that has the program here."""
    if database.server != postgres15.url:
        pytest.skip("pg_dump must not be older than the server")
    dump = subprocess.run(
        [*postgres15.command("pg_dump"), database.server.replace("/postgres", f"/{database.name}")],
        capture_output=True,
        check=True,
    ).stdout
    with closing(Database(database.server)) as copy:
        restored = subprocess.run(
            [
                *postgres15.command("psql"),
                "-v",
                "ON_ERROR_STOP=1",
                "-q",
                copy.server.replace("/postgres", f"/{copy.name}"),
            ],
            input=dump,
            capture_output=True,
        )
        assert restored.returncode == 0, restored.stderr.decode()
        copy.rows("ALTER TABLE items ADD COLUMN stock int DEFAULT 7")
        copy.rows("DROP TABLE items")


def test_events_that_count_at_once_are_found_out(database, read, monkeypatch):
    """Without triggers: what a look finds may lie behind rows that are still to come."""
    monkeypatch.setitem(faults._armed, "mutant.event_at_once", ("skip", "", 1))
    database.write(
        "CREATE TABLE items(id int PRIMARY KEY, price int)",
        "INSERT INTO items SELECT g, g FROM generate_series(1, 300) g",
    )
    reading = read("items", event_triggers="off").open().until_loaded()
    for turn in range(20):
        database.write(f"UPDATE items SET price = {turn} WHERE id % 3 = {turn % 3}")
    database.rows("DROP TABLE items")
    reading.source._open.reader._evolution.wants_look = True
    while reading.step(3_000) is not None:
        pass
    with pytest.raises(AssertionError):
        reading.agree()


@pytest.mark.parametrize("triggers", ["on", "off"])
def test_a_pipeline_over_a_table_that_gains_a_default_verifies(database, tmp_path, triggers):
    database.write(*SCHEMA)
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.format(url=database.url_with(event_triggers=triggers)))
    run_local(assemble(load(file)), until="idle")
    database.write("UPDATE orders SET state = 'late' WHERE id % 7 = 0")
    database.rows("ALTER TABLE orders ADD COLUMN channel text DEFAULT 'web'")
    database.rows("ALTER TABLE orders ALTER COLUMN note TYPE varchar(40) USING note || '!'")
    database.write("UPDATE orders SET state = 'paid' WHERE id % 11 = 0")
    run_local(assemble(load(file)), until="idle")
    assert wrong(verify(assemble(load(file)))) == {}
