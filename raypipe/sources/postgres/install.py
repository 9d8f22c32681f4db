"""Puts the capture into a server and takes it out.

That is a publication that names the tables, a slot that keeps our place, and event triggers that tell where tables are
altered.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from raypipe.errors import Kind, RaypipeError, SourceGap, Unavailable
from raypipe.sources.postgres import telling
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.connect import Session, literal, quoted
from raypipe.sources.postgres.gaps import read_slot
from raypipe.sources.postgres.position import lsn_of
from raypipe.sources.postgres.schema import Table, path_of, require_tables

# A slot can be made only when every transaction that was running has ended; a long one is waited for as long as this.
SLOT_TIMEOUT_S = 600.0
# Functions that the source needs exist from this major version on.
OLDEST_MAJOR = 14


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a publication has.

    Attributes:
        oids: Of its tables.
        roots: Changes of partitions are published as those of the root.
        operations: It publishes inserts, updates, deletes and truncates.
        everything: It is for all tables.
    """

    oids: frozenset[int]
    roots: bool
    operations: bool
    everything: bool


def install(instance: str, address: Address, tables: Sequence[str]) -> None:
    """Makes publication, event triggers and slot, so that changes are kept for us from now on; what is there stays.

    Raises:
        RaypipeError: the server does not decode logically, or the user may not do this.
    """
    session = Session(address, "install")
    try:
        require_logical(session)
        chosen = require_tables(session, instance, [path_of(name) for name in tables])
        publish(session, instance, chosen)
        telling.install(session, logging.WARNING)
        make_slot(session)
    finally:
        session.close()


def remove(address: Address) -> None:
    """Drops slot, publication and event triggers. The pipeline then has to load its tables again.

    Raises:
        Unavailable: the slot is in use.
    """
    session = Session(address, "remove")
    try:
        slot = read_slot(session, address)
        if slot is not None and slot.active_pid is not None:
            raise Unavailable(
                f"Replication slot {address.slot} is being read by process {slot.active_pid} of the server.",
                remedy="Stop the pipeline first.",
            )
        telling.remove(session)
        if slot is not None:
            session.run(f"SELECT pg_drop_replication_slot({literal(address.slot)})")
        session.run(f"DROP PUBLICATION IF EXISTS {quoted(address.publication)}")
    finally:
        session.close()


def require_logical(session: Session) -> None:
    """Checks that the server can do what the source needs.

    Raises:
        RaypipeError: it cannot.
    """
    if session.version < OLDEST_MAJOR:
        raise RaypipeError(
            f"PostgreSQL {session.version} at {session.address} is too old to be a source.",
            kind=Kind.PIPELINE_FILE,
            remedy=f"Version {OLDEST_MAJOR} or later is needed.",
        )
    (level,) = session.one("SHOW wal_level")
    if level != "logical":
        raise RaypipeError(
            f"PostgreSQL {session.address} runs with wal_level={level}, which does not record whole rows.",
            kind=Kind.PIPELINE_FILE,
            remedy="Set wal_level=logical in postgresql.conf and restart the server.",
        )


def publish(session: Session, instance: str, tables: Mapping[str, Table]) -> bool:
    """Makes the publication, or adds what it lacks; returns whether tables were added.

    Raises:
        RaypipeError: it is missing something and this user may not change it; the message has the statement.
    """
    published = read_publication(session)
    name = quoted(session.address.publication)
    if published is None:
        listed = ", ".join(table.sql for table in tables.values())
        _as_owner(
            session,
            instance,
            f"CREATE PUBLICATION {name} FOR TABLE {listed} WITH (publish_via_partition_root = true)",
        )
        return True
    if not published.roots or not published.operations:
        _as_owner(
            session,
            instance,
            f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate',"
            " publish_via_partition_root = true)",
        )
    lacking = [] if published.everything else [t for t in tables.values() if t.oid not in published.oids]
    if lacking:
        _as_owner(session, instance, f"ALTER PUBLICATION {name} ADD TABLE {', '.join(t.sql for t in lacking)}")
    return bool(lacking)


def read_publication(session: Session) -> Published | None:
    """The publication of the URL's name; None if there is none."""
    name = literal(session.address.publication)
    found = session.rows(
        "SELECT oid::int8, puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot"
        f" FROM pg_publication WHERE pubname = {name}"
    )
    if not found:
        return None
    oid, everything, operations, roots = found[0]
    members = session.rows(f"SELECT prrelid::int8 FROM pg_publication_rel WHERE prpubid = {oid}")
    schemas: Collection[Sequence[int]] = ()
    if session.version >= 15:
        schemas = session.rows(
            "SELECT c.oid::int8 FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid"
            f" WHERE n.pnpubid = {oid}"
        )
    oids = frozenset(int(row[0]) for row in [*members, *schemas])
    return Published(oids=oids, roots=roots, operations=operations, everything=everything)


def _as_owner(session: Session, instance: str, statement: str) -> None:
    try:
        session.run(statement)
    except RaypipeError as error:
        if error.kind is Kind.PIPELINE_FILE:
            raise RaypipeError(
                f"User {session.address.user} may not publish the tables of source {instance!r}.",
                kind=Kind.PIPELINE_FILE,
                remedy=f"Let the owner of the tables run: {statement};",
            ) from error
        raise


def make_slot(session: Session) -> int:
    """Makes the slot unless it is there; returns the LSN behind which it has every change.

    A slot that the server gave up is made again.

    Raises:
        SourceGap: a slot of that name is of another database or another plugin.
    """
    address = session.address
    slot = read_slot(session, address)
    (database,) = session.one("SELECT oid::int8 FROM pg_database WHERE datname = current_database()")
    if slot is not None and (slot.database != database or slot.plugin != "pgoutput"):
        raise SourceGap(
            f"Replication slot {address.slot} exists already and is of another database or another program.",
            remedy="Name a slot of your own in the source's URL: …?slot=NAME.",
        )
    if slot is not None and slot.lost:
        session.run(f"SELECT pg_drop_replication_slot({literal(address.slot)})")
        slot = None
    if slot is not None:
        return slot.confirmed
    arguments = f"{literal(address.slot)}, 'pgoutput'"
    if address.failover:
        if session.version < 17:
            raise RaypipeError(
                f"PostgreSQL {session.version} has no failover slots.",
                kind=Kind.PIPELINE_FILE,
                remedy="Leave failover out of the source's URL; they exist from version 17 on.",
            )
        arguments += ", false, false, true"
    with session.patient(SLOT_TIMEOUT_S):
        (lsn,) = session.one(f"SELECT lsn::text FROM pg_create_logical_replication_slot({arguments})")
    return lsn_of(lsn)
