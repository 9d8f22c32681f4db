"""State in one shard, as all shards of it."""

from __future__ import annotations

from collections.abc import Collection

from raypipe.contracts import StateReport
from raypipe.local.stateful import StateEpoch, Stateful
from raypipe.model import Cut
from raypipe.steps import Needs


class StatefulAlone:
    """See ``threads.StatefulShards``; it works in the caller's own thread.

    Args:
        only: The shard.
    """

    def __init__(self, only: Stateful) -> None:
        self._only = only

    def open(self, generation: int) -> str:
        """See ``Stateful.open``."""
        return self._only.open(generation)

    def versions(self) -> list[tuple[int, ...]]:
        """See ``fitting.Shards``."""
        return [self._only.versions()]

    def saved(self) -> list[tuple[int, ...]]:
        """See ``fitting.Shards``."""
        return [self._only.saved()]

    def restore(self, version: int) -> str:
        """See ``fitting.Shards``."""
        self._only.restore(version)
        return self._only.lineage

    def reset(self) -> None:
        """See ``fitting.Shards``."""
        self._only.reset()

    def prepare(self, shards: int) -> None:
        """See ``Stateful.prepare``."""
        self._only.prepare(shards)

    def keep(self, cuts: Collection[int]) -> None:
        """See ``Stateful.keep``."""
        self._only.keep(cuts)

    def checkpoint(self, version: int, keep: Collection[int]) -> None:
        """See ``Stateful.checkpoint``."""
        self._only.checkpoint(version, keep)

    def reports(self) -> tuple[StateReport, ...]:
        """See ``Stateful.reports``."""
        return self._only.reports()

    def begin(self, after: Cut | None, upto: Cut, needs: Needs) -> StateEpoch:
        """See ``Stateful.begin``."""
        return self._only.begin(after, upto, needs)

    def let_go(self) -> None:
        """See ``Stateful.let_go``."""
        self._only.let_go()

    def leave(self) -> None:
        """See ``Stateful.leave``."""
        self._only.leave()

    def close(self) -> None:
        """See ``Stateful.close``."""
        self._only.close()
