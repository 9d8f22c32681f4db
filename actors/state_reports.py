"""What the owners of a run's state say of it: asked now and then, and never waited for while there is work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from raypipe.contracts import StateReport


class StateReports:
    """The newest reports of all owners."""

    def __init__(self) -> None:
        self._asked: dict[Any, Any] = {}  # by owner, the call that is not answered yet
        self._told: dict[Any, tuple[StateReport, ...]] = {}

    def look(self, owners: Sequence[Any]) -> tuple[StateReport, ...]:
        """Takes what has been answered, and asks again those who have.

        Args:
            owners: Handles of the actors that there are; none keeps what was told last.
        """
        for owner in owners:
            if owner not in self._asked:
                self._asked[owner] = owner.reports.remote()
            elif ray.wait([self._asked[owner]], timeout=0)[0]:
                self._take(owner)
                self._asked[owner] = owner.reports.remote()
        return self._of(owners)

    def settle(self, owners: Sequence[Any], timeout_s: float) -> None:
        """Waits for what the owners say now, before they end."""
        self._asked = {owner: owner.reports.remote() for owner in owners}
        if not owners:
            return
        answered, _ = ray.wait(list(self._asked.values()), num_returns=len(owners), timeout=timeout_s)
        for owner in owners:
            if self._asked[owner] in answered:
                self._take(owner)
        self._of(owners)

    def _take(self, owner: Any) -> None:
        try:
            self._told[owner] = ray.get(self._asked[owner])
        except RayError:
            self._told.pop(owner, None)  # it died; its successor will tell

    def _of(self, owners: Sequence[Any]) -> tuple[StateReport, ...]:
        if owners:
            self._told = {owner: self._told[owner] for owner in owners if owner in self._told}
            self._asked = {owner: self._asked[owner] for owner in owners if owner in self._asked}
        return tuple(report for told in self._told.values() for report in told)
