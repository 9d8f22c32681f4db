"""Time goes by in a silent source, too: steps that ask for it need a cut now and then."""

from __future__ import annotations

import time

from raypipe.engine.pump import Pump


class Ticking:
    """Of one reader that has found nothing new.

    Args:
        period_s: How old the newest cut may become; None if nobody asks for the time.
    """

    def __init__(self, period_s: float | None) -> None:
        self._period_s = period_s
        self._due = 0.0

    def tick(self, pump: Pump) -> bool:
        """Makes a cut if the newest one, whoever made it, is old; returns whether it did.

        Raises:
            RaypipeError: the log failed.
        """
        now = time.monotonic()
        if self._period_s is None or now < self._due:
            return False
        cut = pump.newest_cut()
        age_s = time.time() - cut.at if cut is not None else 0.0
        if 0 <= age_s < self._period_s:  # a clock that was set back makes an age below 0
            self._due = now + self._period_s - age_s
            return False
        self._due = now + self._period_s
        return pump.stand_still()
