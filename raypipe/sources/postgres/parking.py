"""Keeps rows that do not fit out of the changes, and their tables in the position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raypipe.model import ChangeBatch, TableSchema
from raypipe.sources.postgres.gathering import Gathered
from raypipe.sources.postgres.misfits import Misfits, require_whole_keys
from raypipe.sources.postgres.position import Position
from raypipe.sources.postgres.quarantine import emptied, park


def add_fitting(gathered: Gathered, position: Position, batch: ChangeBatch, misfits: Misfits | None) -> Position:
    """Adds what fits of a batch to the piece, and the rest as changes of the quarantine.

    Returns:
        The position, which knows which tables have had rows in quarantine.

    Raises:
        SchemaMismatch: a key does not fit, so its row could not be told from others.
    """
    schema = batch.schema
    require_whole_keys(misfits, schema)
    path = path_of_schema(schema)
    fitting, quarantined, parked = park(
        schema, batch.rows, misfits, schema.table.instance, clearing=path in position.parked
    )
    gathered.add(ChangeBatch(schema, fitting))
    if quarantined is None:
        return position
    gathered.add(quarantined)
    gathered.parked += parked
    known: Mapping[str, int] = {**position.parked, path: max(position.parked.get(path, 0) + parked, 0)}
    return replace(position, parked=known)


def empty(gathered: Gathered, position: Position, instance: str, time_us: int | None) -> Position:
    """Empties the quarantine: which of its rows were a table's cannot be told by a TRUNCATE of that table."""
    ordinal = position.load_ordinal
    gathered.add(emptied(instance, position.load_commit, ordinal, time_us))
    gathered.parked -= sum(position.parked.values())
    return replace(position, parked={})


def path_of_schema(schema: TableSchema) -> str:
    """``schema.table``."""
    return f"{schema.table.schema}.{schema.table.table}"
