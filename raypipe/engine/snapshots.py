"""How a person asks a pipeline at work to load tables again, or to rest from loading: notes beside the log."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from raypipe.contracts import Log

_REQUEST = "snapshot.request."
_PAUSE = "snapshot.paused."


@dataclass(frozen=True, kw_only=True)
class SnapshotRequest:
    """What is wanted of a source.

    Attributes:
        tables: ``instance.table``, to be loaded from the start beside the stream; none if nothing is wanted.
        paused: Loads rest, the stream goes on.
    """

    tables: tuple[str, ...] = ()
    paused: bool = False


def read_request(log: Log, instance: str) -> SnapshotRequest:
    """What is wanted of a source now."""
    notes = log.notes("snapshot.")
    text = notes.get(_REQUEST + instance)
    return SnapshotRequest(
        tables=tuple(json.loads(text)) if text is not None else (), paused=(_PAUSE + instance) in notes
    )


def ask_for(log: Log, instance: str, tables: Collection[str]) -> None:
    """Wants tables to be loaded, besides those that are wanted already."""
    wanted = {*read_request(log, instance).tables, *tables}
    log.write_note(_REQUEST + instance, json.dumps(sorted(wanted)))


def answered(log: Log, instance: str, tables: Collection[str]) -> None:
    """The loads of these tables have begun: what is still wanted stays."""
    left = sorted(set(read_request(log, instance).tables) - set(tables))
    log.write_note(_REQUEST + instance, json.dumps(left) if left else None)


def pause(log: Log, instance: str) -> None:
    """Wants loads to rest."""
    log.write_note(_PAUSE + instance, "yes")


def resume(log: Log, instance: str) -> None:
    """Wants loads to go on."""
    log.write_note(_PAUSE + instance, None)
