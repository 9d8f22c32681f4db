"""How far the reader of each instance is: now, and at its last transaction boundary."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

from raypipe.codec import checksum
from raypipe.log.sqlite.failures import damaged
from raypipe.log.sqlite.file import LogFile


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of one reader.

    Attributes:
        position: Where it goes on.
        loading: Its tables still loading there.
        cut_position: Its position at its last transaction boundary, None before the first: what cuts say of it.
        cut_loading: Likewise.
    """

    position: str | None = None
    loading: tuple[str, ...] = ()
    cut_position: str | None = None
    cut_loading: tuple[str, ...] = ()

    def advanced(self, position: str, loading: Collection[str]) -> Progress:
        """After a commit that may end inside a transaction of the source."""
        return replace(self, position=position, loading=tuple(sorted(loading)))

    def at_boundary(self) -> Progress:
        """The same place, now known to be a transaction boundary."""
        return replace(self, cut_position=self.position, cut_loading=self.loading)


def read_progress(file: LogFile, instance: str) -> Progress:
    """The stored progress of an instance; an empty one if it never committed."""
    row = file.first("SELECT progress, checksum FROM writers WHERE instance = ?", (instance,))
    return Progress() if row is None else _progress(file, instance, *row)


def read_all_progress(file: LogFile) -> dict[str, Progress]:
    """The stored progress of every instance, by name."""
    rows = file.all("SELECT instance, progress, checksum FROM writers ORDER BY instance")
    return {instance: _progress(file, instance, text, crc) for instance, text, crc in rows}


def write_progress(file: LogFile, instance: str, progress: Progress) -> None:
    """Stores the progress of an instance whose writer is known."""
    text = json.dumps(asdict(progress), separators=(",", ":"))
    file.run(
        "UPDATE writers SET progress = ?, checksum = ? WHERE instance = ?",
        (text, checksum(text.encode(), instance), instance),
    )


def _progress(file: LogFile, instance: str, text: str | None, crc: int | None) -> Progress:
    if text is None:
        return Progress()
    if checksum(text.encode(), instance) != crc:
        raise damaged(file.path, f"the position of instance {instance} is not what was written")
    fields = json.loads(text)
    return Progress(
        position=fields["position"],
        loading=tuple(fields["loading"]),
        cut_position=fields["cut_position"],
        cut_loading=tuple(fields["cut_loading"]),
    )
