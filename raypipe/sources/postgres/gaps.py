"""Decides whether a server can still serve what follows a position, and says why if it cannot.

PostgreSQL itself does not refuse: from version 15 on a start behind the slot's confirmed place is silently moved
forward, and a slot made anew under an old name begins wherever the server stands. So everything is compared here.
"""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.errors import SourceGap
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.connect import Session, literal
from raypipe.sources.postgres.position import Position, lsn_of, lsn_text

_NEW_LOG = "run the pipeline with a new log, which loads all tables again."
_REPAIR = "'raypipe repair --new-slot' compares the tables and reads again only what was missed."


@dataclass(frozen=True, kw_only=True)
class Server:
    """Which history of which database a connection leads to.

    Attributes:
        system: Identifier of the cluster, made by initdb.
        timeline: Changes when a standby is promoted or a backup restored.
        database: OID.
        lsn: How far its write-ahead log is written to disk.
        branches: Timelines of its past, each with the LSN at which it was left.
    """

    system: str
    timeline: int
    database: int
    lsn: int
    branches: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A logical replication slot.

    Attributes:
        confirmed: LSN up to which it was acknowledged.
        active_pid: Of the server's process that serves it, None if nobody reads it.
        lost: Why it can no longer serve, empty if it can.
        database: OID.
        plugin: That decodes for it.
    """

    confirmed: int
    active_pid: int | None
    lost: str
    database: int
    plugin: str


def read_server(replication: Session) -> Server:
    """Asks a replication connection who it is connected to."""
    system, timeline, lsn, _ = replication.one("IDENTIFY_SYSTEM")
    branches = _branches(replication, int(timeline)) if int(timeline) > 1 else {}
    database = replication.one("SELECT oid::int8 FROM pg_database WHERE datname = current_database()")[0]
    return Server(
        system=str(system), timeline=int(timeline), database=int(database), lsn=lsn_of(lsn), branches=branches
    )


def _branches(replication: Session, timeline: int) -> dict[int, int]:
    _, content = replication.one(f"TIMELINE_HISTORY {timeline}")
    text = content if isinstance(content, str) else bytes(content).decode()
    if text.startswith("\\x"):
        text = bytes.fromhex(text[2:]).decode()
    found = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) >= 2 and parts[0].isdigit():
            found[int(parts[0])] = lsn_of(parts[1])
    return found


def read_slot(session: Session, address: Address) -> Slot | None:
    """The slot of the URL's name; None if there is none."""
    why = "coalesce(s.invalidation_reason, '')" if session.version >= 17 else "''"
    rows = session.rows(
        f"SELECT s.confirmed_flush_lsn::text, s.active_pid, s.wal_status, s.datoid::int8, s.plugin::text, {why}"
        f" FROM pg_replication_slots s WHERE s.slot_name = {literal(address.slot)}"
    )
    if not rows:
        return None
    confirmed, pid, status, database, plugin, reason = rows[0]
    lost = ""
    if status == "lost" or reason:
        lost = "max_slot_wal_keep_size was exceeded" if reason in ("", "wal_removed") else reason.replace("_", " ")
    return Slot(
        confirmed=lsn_of(confirmed) if confirmed else 0,
        active_pid=pid,
        lost=lost,
        database=int(database or 0),
        plugin=str(plugin),
    )


def read_kept(session: Session, address: Address) -> dict[str, int]:
    """Bytes of the server's log that the slot has not acknowledged, and that may be written before it is lost."""
    rows = session.rows(
        "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::int8, safe_wal_size FROM pg_replication_slots"
        f" WHERE slot_name = {literal(address.slot)}"
    )
    if not rows:
        return {}
    kept, safe = rows[0]
    return {"kept_bytes": int(kept or 0)} | ({} if safe is None else {"safe_bytes": int(safe)})


def gap(instance: str, why: str, remedy: str = "") -> SourceGap:
    """The error for a source that cannot go on."""
    return SourceGap(
        f"Source {instance!r} cannot go on from the log's position: {why}.",
        remedy=f"{remedy} Otherwise {_NEW_LOG}" if remedy else _NEW_LOG[0].upper() + _NEW_LOG[1:],
    )


def repairable_gap(instance: str, why: str, advice: str = "") -> SourceGap:
    """The error for a source that could go on if what was missed was found."""
    return gap(instance, why, f"{advice} {_REPAIR}".strip())


def require_same(instance: str, position: Position, server: Server, address: Address) -> None:
    """Checks that a connection leads to the history that a position belongs to.

    Raises:
        SourceGap: another cluster, another database, an older copy, or a history that left ours too early.
    """
    if server.system != position.system:
        raise gap(instance, "this is another database cluster", "Put the right server into the URL.")
    if server.database != position.database:
        raise gap(instance, "this is another database of the cluster", "Put the right database into the URL.")
    if address.slot != position.slot:
        raise gap(
            instance,
            f"it was read through slot {position.slot}, the URL now names {address.slot}",
            "Put the old name back.",
        )
    reached = position.partial.commit if position.partial else position.lsn
    if server.timeline < position.timeline:
        raise gap(instance, "the server is on an older timeline, as a former primary would be")
    if server.timeline > position.timeline:
        left_at = server.branches.get(position.timeline)
        if left_at is None or left_at < reached:
            raise repairable_gap(
                instance,
                "the server was promoted or restored to a state before changes that were already read"
                f" ({lsn_text(left_at) if left_at is not None else 'unknown'} against {lsn_text(reached)})",
            )
    if server.lsn < position.lsn:
        raise repairable_gap(
            instance,
            f"the server is an older copy: its log ends at {lsn_text(server.lsn)}, before {lsn_text(position.lsn)}",
        )


def require_slot(instance: str, position: Position, slot: Slot | None, server: Server) -> None:
    """Checks that the slot still holds everything behind a position.

    Raises:
        SourceGap: dropped, invalidated, made again, or acknowledged by somebody else.
    """
    if slot is None:
        raise repairable_gap(
            instance,
            f"replication slot {position.slot} is gone: it was dropped, or a failover did not bring it along",
        )
    if slot.lost:
        raise repairable_gap(
            instance,
            f"the server gave up replication slot {position.slot} ({slot.lost})",
            "To avoid it raise max_slot_wal_keep_size, and watch the slot's lag.",
        )
    if slot.database != server.database:
        raise gap(instance, f"replication slot {position.slot} was made again, in another database")
    if slot.confirmed > position.lsn:
        raise repairable_gap(
            instance,
            f"replication slot {position.slot} stands at {lsn_text(slot.confirmed)}, beyond {lsn_text(position.lsn)}:"
            " it was dropped and made again, or somebody else reads or advances it",
        )
