"""How a person asks a pipeline at work to read tables again, or to rest from it: notes beside the log."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from itertools import count

from raypipe.contracts import Log, ReadAgain

_REQUEST = "snapshot.request."
_PAUSE = "snapshot.paused."
_AGAIN = "again."


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


def new_wish_ids() -> Iterator[str]:
    """Ids of wishes that are made together, in order, and behind those that were made before."""
    began = time.time_ns()
    return (f"{began:020d}-{number:06d}" for number in count())


def ask_again(log: Log, instance: str, wish: ReadAgain) -> None:
    """Wants a part of a table to be read again."""
    log.write_note(f"{_AGAIN}{instance}.{wish.id}", json.dumps(asdict(wish)))


def asked_again(log: Log, instance: str) -> tuple[ReadAgain, ...]:
    """Which parts of tables are wanted, in the order in which they were asked for."""
    found = (json.loads(text) for _, text in sorted(log.notes(f"{_AGAIN}{instance}.").items()))
    return tuple(ReadAgain(**(each | {"keys": tuple(map(tuple, each["keys"]))})) for each in found)


def answered_again(log: Log, instance: str, ids: Collection[str]) -> None:
    """These wishes are in the log's position, or done."""
    for each in ids:
        log.write_note(f"{_AGAIN}{instance}.{each}", None)
