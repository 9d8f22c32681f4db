"""Writes the files in ``captured``: statements run on a real server, and the bytes it sends for them.

Run it in the repository's folder when a scene changes, with the URL of a PostgreSQL 18 on which one may do everything
and prepared transactions are allowed: ``PYTHONPATH=.:tests python tests/unit/postgres/capture.py postgresql://…``
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from postgres_database import Database

from raypipe.sources.postgres.address import parse_address
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.types import TYPES_SQL
from raypipe.sources.postgres.wire import CopyStream

FOLDER = Path(__file__).parent / "captured"
LONG = "repeat('x', 2500)"  # stored apart, as it is


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Statements before the slot, statements after it, and how the stream is started."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    protocol: int = 1
    options: str = ""
    settings: tuple[str, ...] = ()


def _table(name: str, identity: str) -> tuple[str, ...]:
    return (
        f"CREATE TABLE {name} (id int PRIMARY KEY, code int NOT NULL UNIQUE, n int, note text)",
        f"ALTER TABLE {name} ALTER COLUMN note SET STORAGE EXTERNAL",
        f"ALTER TABLE {name} REPLICA IDENTITY {identity}",
    )


def _changes(name: str) -> tuple[str, ...]:
    return (
        f"INSERT INTO {name} VALUES (1, 10, 1, {LONG}), (2, 20, NULL, NULL)",
        f"UPDATE {name} SET n = 5 WHERE id = 1",
        f"UPDATE {name} SET id = 3 WHERE id = 1",
        f"UPDATE {name} SET code = 11 WHERE id = 3",
        f"UPDATE {name} SET note = 'short' WHERE id = 3",
        f"DELETE FROM {name} WHERE id = 2",
    )


SCENES = (
    Scene(
        name="identities",
        before=(
            *_table("by_default", "DEFAULT"),
            *_table("by_full", "FULL"),
            *_table("by_index", "USING INDEX by_index_code_key"),
        ),
        after=(*_changes("by_default"), *_changes("by_full"), *_changes("by_index")),
    ),
    Scene(
        name="transactions",
        before=("CREATE TABLE one (id int PRIMARY KEY)", "CREATE TABLE two (id int PRIMARY KEY)"),
        after=(
            "BEGIN",
            "INSERT INTO one VALUES (1)",
            "SAVEPOINT s",
            "INSERT INTO two VALUES (2)",
            "ROLLBACK TO s",
            "INSERT INTO two VALUES (3)",
            "SELECT pg_logical_emit_message(true, 'inside', 'a')",
            "TRUNCATE one, two RESTART IDENTITY",
            "INSERT INTO one VALUES (4)",
            "COMMIT",
            "SELECT pg_logical_emit_message(false, 'outside', 'b', true)",
            "BEGIN",
            "INSERT INTO one VALUES (5)",
            "ROLLBACK",
            "INSERT INTO one VALUES (6)",
        ),
        options=", messages 'true'",
    ),
    Scene(
        name="altered",
        before=("CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE one (id int PRIMARY KEY, gone text)"),
        after=(
            "INSERT INTO one VALUES (1, 'a')",
            "ALTER TABLE one ADD COLUMN m mood DEFAULT 'sad'",
            "ALTER TABLE one DROP COLUMN gone",
            "INSERT INTO one VALUES (2)",
        ),
    ),
    Scene(
        name="in_progress",
        before=("CREATE TABLE one (id int PRIMARY KEY)",),
        after=(
            "BEGIN",
            "INSERT INTO one VALUES (1)",
            "SAVEPOINT s",
            "INSERT INTO one VALUES (2)",
            "ROLLBACK TO s",
            "INSERT INTO one VALUES (3)",
            "COMMIT",
            "BEGIN",
            "INSERT INTO one VALUES (4)",
            "ROLLBACK",
        ),
        protocol=4,
        options=", streaming 'parallel'",
        settings=("debug_logical_replication_streaming=immediate",),
    ),
    Scene(
        name="prepared",
        before=("CREATE TABLE one (id int PRIMARY KEY)",),
        after=(
            "BEGIN",
            "INSERT INTO one VALUES (1)",
            "PREPARE TRANSACTION 'kept'",
            "COMMIT PREPARED 'kept'",
            "BEGIN",
            "INSERT INTO one VALUES (2)",
            "PREPARE TRANSACTION 'dropped'",
            "ROLLBACK PREPARED 'dropped'",
            "INSERT INTO one VALUES (3)",
        ),
        protocol=3,
        options=", two_phase 'true'",
    ),
)


# Declared types for the page of types.
DECLARATIONS = (
    *("boolean", "smallint", "integer", "bigint", "oid", "real", "double precision"),
    *("numeric(12,2)", "numeric(60,2)", "numeric(100,2)", "numeric", "money"),
    *("text", "character varying(40)", "character(5)", "name", '"char"', "mood"),
    *("json", "jsonb", "xml", "bytea", "uuid"),
    *("date", "time without time zone", "time with time zone"),
    *("timestamp without time zone", "timestamp with time zone", "interval"),
    *("integer[]", "text[][]", "numeric[]", "pair", "int4range", "int4multirange"),
    *("bit(8)", "bit varying", "inet", "cidr", "macaddr", "point", "polygon", "tsvector", "pg_lsn"),
)


def main() -> None:
    """Makes every file again, on the server whose URL is given."""
    [_, server] = sys.argv
    for scene in SCENES:
        database = Database(server)
        try:
            (FOLDER / f"{scene.name}.bin").write_bytes(_captured(database, scene))
        finally:
            database.close()
    (FOLDER / "types.json").write_text(json.dumps(_types(server), indent=1) + "\n")


def _types(server: str) -> dict[str, list[list[str]]]:
    """Columns of a table with all declared types, and the rows of TYPES_SQL that tell what they are."""
    database = Database(server)
    try:
        database.rows("CREATE TYPE mood AS ENUM ('sad')")
        database.rows("CREATE TYPE pair AS (x int, y int)")
        columns = ", ".join(f"c{place} {declared}" for place, declared in enumerate(DECLARATIONS))
        database.rows(f"CREATE TABLE typed ({columns})")
        attributes = database.rows(
            "SELECT atttypid::text, atttypmod::text, attndims::text FROM pg_attribute"
            " WHERE attrelid = 'typed'::regclass AND attnum > 0 ORDER BY attnum"
        )
        types = {row[0]: row for row in database.rows(TYPES_SQL)}
    finally:
        database.close()
    used = {attribute[0] for attribute in attributes}
    elements = {types[oid][4] for oid in used if types[oid][8] == "true"}
    return {
        "columns": [[declared, *attribute] for declared, attribute in zip(DECLARATIONS, attributes, strict=True)],
        "types": [types[oid] for oid in sorted(used | elements, key=int)],
    }


def _captured(database: Database, scene: Scene) -> bytes:
    for statement in scene.before:
        database.rows(statement)
    tables = database.rows(
        "SELECT string_agg(relname, ', ') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    database.rows(f"CREATE PUBLICATION p FOR TABLE {tables[0][0]}")
    two_phase = "true" if "two_phase" in scene.options else "false"
    database.rows(f"SELECT pg_create_logical_replication_slot('{database.slot}', 'pgoutput', false, {two_phase})")
    for statement in scene.after:
        database.rows(statement)
    [[end]] = database.rows("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    session = Session(parse_address("lab", database.url), "capture", replication=True)
    for setting in scene.settings:
        name, _, value = setting.partition("=")
        session.run(f"SET {name} = '{value}'")
    sock, leftover = session.begin_copy(
        f"START_REPLICATION SLOT {database.slot} LOGICAL 0/0"
        f" (proto_version '{scene.protocol}', publication_names 'p'{scene.options})"
    )
    stream, kept, deadline = CopyStream(sock, leftover=leftover), b"", time.monotonic() + 20
    reached = False
    while not reached and time.monotonic() < deadline:
        gulp = stream.gulp(1.0)
        for at, size in zip(gulp.at.tolist(), gulp.size.tolist(), strict=True) if gulp is not None else ():
            if gulp.buffer[at] == ord("k"):
                reached = int.from_bytes(gulp.buffer[at + 1 : at + 9].tobytes(), "big") >= int(end)
            else:
                kept += gulp.buffer[at - 5 : at + size].tobytes()
    session.close()
    return kept


if __name__ == "__main__":
    main()
