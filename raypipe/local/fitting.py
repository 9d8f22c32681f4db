"""Whether the state fits what the sinks hold; if not, an older one is carried on by what the log still holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from raypipe.contracts import Carrying, Log
from raypipe.errors import StateLost
from raypipe.local.demand import Footing
from raypipe.model import Cut

logger = logging.getLogger(__name__)

# Carries the state from one cut to another, on the way to the highest that a sink holds, of this number.
Carry = Callable[[Cut, Cut, int], None]


class Shards(Protocol):
    """The state, all of its shards at once.

    Raises, from every method:
        Unavailable: a disk or an object store does not answer.
    """

    def versions(self) -> Sequence[Collection[int]]:
        """Numbers of the cuts that each is kept for."""
        ...

    def saved(self) -> Sequence[Collection[int]]:
        """Numbers of the cuts that each can be restored at."""
        ...

    def restore(self, version: int) -> str:
        """Restores each of them; returns the lineage of the whole.

        Raises:
            StateLost: one of them cannot be.
        """
        ...

    def reset(self) -> None:
        """Forgets everything, durably."""
        ...

    def keep(self, cuts: Collection[int]) -> None:
        """No sink will go on from any other cut than these."""
        ...


class Fitting:
    """Of one run's state.

    Args:
        log: What it is carried on by.
        footing: Which state the sinks' tables are views of.
        epoch_bytes: How much of the log is read at a time, about.
    """

    def __init__(self, log: Log, footing: Footing, epoch_bytes: int) -> None:
        self._log = log
        self._footing = footing
        self._epoch_bytes = epoch_bytes

    def fits(self, state: Shards, cuts: Sequence[Cut | None], carry: Carry, carrying: Carrying) -> bool:
        """Whether some sink can go on from the state, or there is none; if not, it is emptied.

        Args:
            state: Open.
            cuts: That the sinks hold.
            carry: Carries the state alone.
            carrying: See ``Crew.fits``.
        """
        held = state.versions()
        common = _common(held)
        if not any(held) or any(cut is not None and cut.number in common for cut in cuts):
            return True
        targets = sorted((cut for cut in cuts if cut is not None), key=lambda cut: cut.number)
        # What some shards were carried to a second time does not fit what others computed the first time, to the last
        # bit: all of them go on from one version, and hold nothing that is newer.
        newest = {max(versions, default=0) for versions in held}
        if len(newest) == 1 and self._carried_on(state, newest.pop(), targets, carry, carrying):
            return True
        if self._restored(state, targets, carry, carrying):
            return True
        state.reset()
        self._footing.leave()
        return False

    def _restored(self, state: Shards, targets: Sequence[Cut], carry: Carry, carrying: Carrying) -> bool:
        for version in sorted(_common(state.saved()), reverse=True):
            if self._log.cut(version) is None:
                continue
            try:
                lineage = state.restore(version)
            except StateLost:
                continue
            return self._footing.is_on(lineage) and self._carried_on(state, version, targets, carry, carrying)
        return False

    def _carried_on(
        self, state: Shards, version: int, targets: Sequence[Cut], carry: Carry, carrying: Carrying
    ) -> bool:
        """Carries a version to every cut that a sink holds; False if the log does not know it, or all are behind."""
        begin = self._log.cut(version)
        ahead = [cut for cut in targets if begin is not None and cut.number >= begin.number]
        if begin is None or not ahead:
            return False
        needed = {cut.number for cut in ahead}
        at = begin
        for upto in self._way(begin, ahead):
            logger.info("state is carried on by the log", extra={"cut": upto.number, "upto": ahead[-1].number})
            carrying(at.number, ahead[-1].number)
            carry(at, upto, ahead[-1].number)
            at = upto
            state.keep(needed | {at.number})
        return True

    def _way(self, begin: Cut, targets: Sequence[Cut]) -> Iterator[Cut]:
        """Cuts to stop at, not more than an epoch apart where the log has cuts between."""
        at = begin
        for target in targets:
            while at.number < target.number:
                ahead = [cut for cut in self._log.cuts(after=at.number) if cut.number <= target.number] or [target]
                near = [cut for cut in ahead if cut.bytes - at.bytes <= self._epoch_bytes]
                at = near[-1] if near else ahead[0]
                yield at


def _common(of_each: Sequence[Collection[int]]) -> set[int]:
    return set(of_each[0]).intersection(*of_each[1:])
