"""Leads over a gap in the stream: a slot made anew, and a position behind it in which every table is unsure.

The slot comes first. From its consistent point on the server keeps every change for us; whatever looks at the tables
afterwards sees every commit before that point, so what it finds different is all that was missed.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from raypipe import faults
from raypipe.errors import SourceGap
from raypipe.sources.postgres import install
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.connect import Session, literal
from raypipe.sources.postgres.gaps import gap, read_server, read_slot, require_same, require_slot
from raypipe.sources.postgres.position import Position, lsn_text
from raypipe.sources.postgres.schema import require_tables


def over_gap(
    instance: str,
    address: Address,
    paths: Collection[str],
    position: Position,
    anew: Collection[str],
    *,
    in_order: bool,
) -> Position | None:
    """See ``raypipe.contracts.CanBeRepaired``.

    Args:
        instance: Name.
        address: Of the database.
        paths: Chosen tables.
        position: Of the log.
        anew: Of the tables, those to be loaded.
        in_order: See there.

    Raises:
        SourceGap: this is another database, or its places lie before those that were read.
    """
    with closing(Session(address, "control")) as session:
        with closing(Session(address, "look", replication=True)) as replication:
            server = read_server(replication)
        slot = read_slot(session, address)
        try:
            require_same(instance, position, server, address)
            require_slot(instance, position, slot, server)
        except SourceGap:
            ours = (server.system, server.database, address.slot)
            if ours != (position.system, position.database, position.slot):
                raise
        else:
            return None
        if in_order and server.lsn < position.lsn:
            raise gap(
                instance,
                f"the server stands at {lsn_text(server.lsn)}, before {lsn_text(position.lsn)}, and a history table"
                " cannot take places twice",
            )
        tables = require_tables(session, instance, sorted(paths))
        install.require_logical(session)
        install.publish(session, instance, tables)
        if slot is not None and slot.database == server.database and slot.plugin == "pgoutput":
            session.run(f"SELECT pg_drop_replication_slot({literal(address.slot)})")
        lsn = install.make_slot(session)
        faults.point("repair.slot.after")
    known = {
        path: table
        for path, table in position.tables.items()
        if path in tables and path not in anew and path not in position.loading
    }
    return Position(
        system=server.system,
        database=server.database,
        slot=address.slot,
        timeline=server.timeline,
        lsn=lsn,
        tables=known,
        due={path: since for path, since in position.due.items() if path in known},
        parked=position.parked,
        unsure=tuple(sorted(known)),
    )
