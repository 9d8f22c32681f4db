"""All checkpoints of a state: ``<url>/<number of shards>/<shard>``, as the state itself lies on its disk."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from raypipe.contracts import TraceSchema
from raypipe.state.checkpoint import restorable
from raypipe.state.remote import Remote
from raypipe.state.sharding import WHOLE, Share

_GENERATION = "generation.json"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """From what a shard can be restored.

    Attributes:
        remotes: Of each shard of the layout that it comes from.
        share: What of it.
    """

    remotes: tuple[Remote, ...]
    share: Share


class Shelf:
    """Those that one shard makes, and those that it may begin from.

    Args:
        url: Of an object store (fsspec).
        shard: Number of this one.
        shards: How many there are.

    Raises, from every method:
        Unavailable: the object store does not answer.
    """

    def __init__(self, url: str, shard: int, shards: int) -> None:
        self._url = url.rstrip("/")
        self._shard = shard
        self._shards = shards
        self._top = Remote(self._url)
        self.own = self._remote(shards, shard)

    def saved(self, *, identity: str, traces: Sequence[TraceSchema]) -> dict[int, Saved]:
        """What this shard can be restored from, by version; what it wrote itself before what other layouts hold."""
        found: dict[int, Saved] = {}
        for shards in self._others():
            remotes = tuple(self._remote(shards, shard) for shard in range(shards))
            share = Share(shard=self._shard, shards=self._shards)
            each = Saved(remotes=remotes, share=share)
            found |= dict.fromkeys(restorable(remotes, identity=identity, traces=traces), each)
        own = Saved(remotes=(self.own,), share=WHOLE)
        return found | dict.fromkeys(restorable([self.own], identity=identity, traces=traces), own)

    def claim(self, generation: int) -> None:
        """Says whose the checkpoints are in this number of shards, for ``discard_others``."""
        if self._claimed(self._shards) < generation:
            self._remote(self._shards).put(_GENERATION, json.dumps(generation).encode())

    def discard_others(
        self, generation: int, versions: Collection[int], *, identity: str, traces: Sequence[TraceSchema]
    ) -> None:
        """Removes the checkpoints of other layouts once all shards of this one have one of these versions themselves.

        Those of a layout stay that a later run than this makes.
        """
        others = self._others()
        own = [self._remote(self._shards, shard) for shard in range(self._shards)] if others else []
        if not restorable(own, identity=identity, traces=traces).keys() & set(versions):
            return
        for shards in others:
            if self._claimed(shards) <= generation:
                self._top.remove_folder(str(shards))

    def _others(self) -> list[int]:
        return [int(name) for name in self._top.folders() if name.isdecimal() and int(name) != self._shards]

    def _claimed(self, shards: int) -> int:
        content = self._remote(shards).get(_GENERATION)
        return int(json.loads(content)) if content else 0

    def _remote(self, *path: int) -> Remote:
        return Remote("/".join([self._url, *map(str, path)]))
