"""Has the server tell where in the stream tables are altered: event triggers that write logical messages.

A Relation message says under which columns the rows behind it come, and nothing else: no word of a table that was
dropped, of a default, of rows that were rewritten, of partitions. So, where the role may, three event triggers of one
function are put into the database. It writes what became of a table as a *transactional* message: that stands in the
stream where the change stands among the rows, and is rolled back with it.

The function runs with the rights of whoever alters a table (reading the catalog and writing a message need none), with
a search path of its own, and swallows whatever goes wrong in it: nobody's DDL may fail because of us. What it did not
tell is found by a look at the catalog, as it is without triggers (``evolution``).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from raypipe.errors import Kind, RaypipeError, Unavailable
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.connect import Session, literal, quoted
from raypipe.sources.postgres.events import Message
from raypipe.sources.postgres.forms import form
from raypipe.sources.postgres.position import Form

logger = logging.getLogger(__name__)

PREFIX = "raypipe"
FUNCTION = "tell_ddl"
# PostgreSQL cuts names off behind 63 bytes; the longest suffix has 8.
_NAME_BYTES = 55
_EVENTS = {"ddl_command_end": "end", "sql_drop": "drop", "table_rewrite": "rewrite"}
# Bits of pg_event_trigger_table_rewrite_reason: SET LOGGED, a default, a type. Another access method changes no row.
_REWRITES = 1 | 2 | 4

# pg_event_trigger_ddl_commands names a table, a column of one, or a schema that took its tables along.
_BODY = """
DECLARE
  item record;
BEGIN
  IF tg_event = 'table_rewrite' THEN
    PERFORM pg_logical_emit_message(true, '{prefix}', jsonb_build_object(
      'slot', {slot}, 'event', tg_event, 'tag', tg_tag, 'reason', pg_event_trigger_table_rewrite_reason(),
      'oid', r.oid::int8, 'files', coalesce((
        SELECT jsonb_agg(jsonb_build_array(l.oid::int8, l.relfilenode::int8, l.xmin::text::int8))
        FROM pg_partition_tree(r.oid) p JOIN pg_class l ON l.oid = p.relid
        WHERE p.isleaf AND l.relkind <> 'p'), '[]'))::text)
    FROM (SELECT coalesce(pg_partition_root(pg_event_trigger_table_rewrite_oid()),
      pg_event_trigger_table_rewrite_oid())::oid AS oid) r;
  ELSIF tg_event = 'sql_drop' THEN
    PERFORM pg_logical_emit_message(true, '{prefix}', jsonb_build_object(
      'slot', {slot}, 'event', tg_event, 'tag', tg_tag, 'oids', d.oids)::text)
    FROM (SELECT jsonb_agg(objid::int8) AS oids FROM pg_event_trigger_dropped_objects()
      WHERE classid = 'pg_class'::regclass AND objsubid = 0 AND object_type = 'table' AND NOT is_temporary) d
    WHERE d.oids IS NOT NULL;
  ELSE
    FOR item IN
      SELECT DISTINCT coalesce(pg_partition_root(t.oid)::oid, t.oid) AS oid, t.oid AS object
      FROM pg_event_trigger_ddl_commands() c
      JOIN pg_class t ON (c.classid = 'pg_class'::regclass AND t.oid = c.objid)
        OR (c.classid = 'pg_namespace'::regclass AND t.relnamespace = c.objid AND c.command_tag = 'ALTER SCHEMA')
      WHERE t.relkind IN ('r', 'p') AND t.relpersistence <> 't'
    LOOP
      PERFORM pg_logical_emit_message(true, '{prefix}', jsonb_build_object(
        'slot', {slot}, 'event', tg_event, 'tag', tg_tag, 'object', item.object::int8, 'oid', c.oid::int8,
        'schema', n.nspname, 'table', c.relname, 'kind', c.relkind::text, 'identity', i.identity,
        'files', CASE c.relkind WHEN 'p' THEN coalesce((
            SELECT jsonb_agg(jsonb_build_array(l.oid::int8, l.relfilenode::int8, l.xmin::text::int8))
            FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
            WHERE p.isleaf AND l.relkind <> 'p'), '[]')
          ELSE jsonb_build_array(jsonb_build_array(c.oid::int8, c.relfilenode::int8, c.xmin::text::int8)) END,
        'columns', coalesce((
          SELECT jsonb_agg(jsonb_build_object('number', a.attnum, 'name', a.attname, 'type', a.atttypid::int8,
            'typmod', a.atttypmod, 'missing', a.atthasmissing OR (c.relkind = 'p' AND EXISTS (
              SELECT FROM pg_partition_tree(c.oid) p JOIN pg_attribute l ON l.attrelid = p.relid
              WHERE p.isleaf AND l.attname = a.attname AND l.atthasmissing)),
            'not_null', a.attnotnull, 'storage', a.attstorage::text,
            'default', CASE WHEN a.attidentity <> '' THEN 'identity' WHEN NOT a.atthasdef THEN 'none'
              WHEN a.atthasmissing THEN 'constant' ELSE 'expression' END) ORDER BY a.attnum)
          FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '[]'),
        'key', coalesce((
          SELECT jsonb_agg(a.attname ORDER BY k.place)
          FROM pg_index x CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k(attnum, place)
          JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
          WHERE x.indrelid = c.oid AND k.place <= x.indnkeyatts
            AND CASE i.identity WHEN 'i' THEN x.indisreplident ELSE x.indisprimary END), '[]'))::text)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      CROSS JOIN LATERAL (
        SELECT CASE c.relkind WHEN 'p' THEN coalesce((
            SELECT min(l.relreplident::text) FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
            WHERE p.isleaf), c.relreplident::text) ELSE c.relreplident::text END AS identity) i
      WHERE c.oid = item.oid;
    END LOOP;
  END IF;
EXCEPTION WHEN OTHERS THEN
  NULL;  -- whoever alters a table must not be stopped by this: raypipe looks at the catalog, too
END;
"""


@dataclass(frozen=True, kw_only=True)
class Altered:
    """A table as a DDL command left it.

    Attributes:
        path: ``schema.table``.
        form: Of it.
        columns: Name, type and modifier of each captured column.
        key: Names of its columns.
        files: OID and file of the table or of each partition, and the transaction that wrote its entry in the catalog.
        made: OID of the table or partition that the command made; 0 if it made none.
        command: As PostgreSQL tags it.
    """

    path: str
    form: Form
    files: tuple[tuple[int, int, int], ...]
    columns: tuple[tuple[str, int, int], ...]
    key: tuple[str, ...]
    made: int
    command: str


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """All rows of a table are about to be rewritten, which the stream does not show; of a partition its root is named.

    Attributes:
        oid: Of the table.
        files: Of its partitions before, as in ``Altered``; of those that the same command has rewritten already, after.
        command: As PostgreSQL tags it.
    """

    oid: int
    files: tuple[tuple[int, int, int], ...]
    command: str


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Tables and partitions are no more."""

    oids: tuple[int, ...]
    command: str


Told = Altered | Rewritten | Dropped


def install(session: Session, level: int = logging.INFO) -> None:
    """Puts the event triggers in unless they are there.

    Without the right to, it says so in the log, and the source works by looks at the catalog.

    Args:
        session: Of the database.
        level: To say it with.

    Raises:
        Unavailable: the server is away or busy.
    """
    address = session.address
    if not address.event_triggers or tells(session):
        return
    why = "it may not create schemas in the database"
    (may,) = session.one("SELECT has_database_privilege(current_database(), 'CREATE')")
    try:
        if may:
            with suppress(RaypipeError):
                remove(session)  # of an earlier release, or some of them were dropped
            session.run(f"BEGIN; {';'.join(_statements(address))}; COMMIT")
            return
    except RaypipeError as error:
        with suppress(RaypipeError):
            session.run("ROLLBACK")
        if isinstance(error, Unavailable):
            raise
        why = error.message
    logger.log(
        level,
        "altered tables are found by looks at the catalog: this user cannot create event triggers",
        extra={"user": address.user, "database": address.database, "why": why},
    )


def tells(session: Session) -> bool:
    """Whether the event triggers of this release are in the database and on."""
    name = _name(session.address)
    (found,) = session.one(
        "SELECT count(DISTINCT t.evtevent) = 3 FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid"
        f" JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = {literal(name)} AND t.evtenabled = 'A'"
        f" AND p.proname = {literal(FUNCTION)} AND p.prosrc = {literal(_body(session.address))}"
    )
    return bool(found)


def remove(session: Session) -> None:
    """Drops the event triggers, their function and its schema; idempotent.

    Raises:
        RaypipeError: they are somebody else's, who alone may drop them.
    """
    name = _name(session.address)
    triggers = session.rows(
        "SELECT t.evtname::text FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid"
        f" JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = {literal(name)}"
    )
    ours = session.rows(
        f"SELECT 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = {literal(name)}"
        f" AND p.proname = {literal(FUNCTION)}"
    )
    if not ours:
        return
    statements = [f"DROP EVENT TRIGGER {quoted(trigger)}" for (trigger,) in triggers]
    statements += [f"DROP FUNCTION IF EXISTS {quoted(name)}.{FUNCTION}()", f"DROP SCHEMA {quoted(name)}"]
    try:
        session.run(f"BEGIN; {';'.join(statements)}; COMMIT")
    except RaypipeError as error:
        with suppress(RaypipeError):
            session.run("ROLLBACK")
        if error.kind is Kind.PIPELINE_FILE:
            raise RaypipeError(
                f"User {session.address.user} may not drop the event triggers of schema {name}.",
                kind=Kind.PIPELINE_FILE,
                remedy=f"Let who made them run: {'; '.join(statements)};",
            ) from error
        raise


def read(message: Message, address: Address) -> Told | None:
    """What a message of ours tells; None if it is a watermark, or another pipeline's."""
    if not message.transactional or message.prefix != PREFIX or not message.content.startswith(b"{"):
        return None
    try:
        parts: Mapping[str, Any] = json.loads(message.content)
        if parts["slot"] != address.slot:
            return None
        match parts["event"]:
            case "sql_drop":
                return Dropped(oids=tuple(parts["oids"]), command=parts["tag"])
            case "table_rewrite":
                if not parts["reason"] & _REWRITES:
                    return None
                return Rewritten(oid=parts["oid"], files=_files(parts), command=parts["tag"])
            case "ddl_command_end":
                return _altered(parts)
    except (ValueError, KeyError, TypeError):
        pass  # written by somebody who borrows our prefix: the look at the catalog decides
    return None


def _altered(parts: Mapping[str, Any]) -> Altered:
    columns = parts["columns"]
    stood = form(
        parts["oid"],
        [(each["number"], each["name"], each["type"], each["typmod"]) for each in columns],
        parts["key"],
        [(oid, file) for oid, file, _ in _files(parts)],
        [each["number"] for each in columns if each["missing"]],
        partitioned=parts["kind"] == "p",
    )
    return Altered(
        path=f"{parts['schema']}.{parts['table']}",
        form=stood,
        files=_files(parts),
        columns=tuple((each["name"], each["type"], each["typmod"]) for each in columns),
        key=tuple(parts["key"]),
        made=parts["object"] if parts["tag"] == "CREATE TABLE" else 0,
        command=parts["tag"],
    )


def _files(parts: Mapping[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """What earlier releases' triggers have told lacks the transactions, and of a rewrite the files."""
    return tuple((of[0], of[1], of[2] if len(of) > 2 else 0) for of in parts.get("files", ()))


def _statements(address: Address) -> list[str]:
    name = _name(address)
    function = f"{quoted(name)}.{FUNCTION}()"
    statements = [
        f"CREATE SCHEMA {quoted(name)}",
        f"CREATE FUNCTION {function} RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp"
        f" AS {literal(_body(address))}",
        f"COMMENT ON SCHEMA {quoted(name)} IS 'raypipe source remove takes it out'",
    ]
    for event, suffix in _EVENTS.items():
        trigger = quoted(f"{name}_{suffix}")
        statements.append(f"CREATE EVENT TRIGGER {trigger} ON {event} EXECUTE FUNCTION {function}")
        # Also for sessions that apply another server's changes (session_replication_role).
        statements.append(f"ALTER EVENT TRIGGER {trigger} ENABLE ALWAYS")
    return statements


def _body(address: Address) -> str:
    return _BODY.format(prefix=PREFIX, slot=literal(address.slot))


def _name(address: Address) -> str:
    """Of the schema, and what the triggers' names begin with: of the slot, so that no two pipelines meet."""
    slot = address.slot
    return slot if len(slot) <= _NAME_BYTES else f"{slot[: _NAME_BYTES - 9]}_{crc32(slot.encode()):08x}"
