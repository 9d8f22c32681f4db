"""When to try again after a failure, and when to give up."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.1
LONGEST_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Consecutive failures of one thing; a value, so that nobody else can advance it.

    Attributes:
        failures: In a row.
        since: When the first of them happened, seconds of the caller's clock.
        retry_at: Not before.
    """

    failures: int = 0
    since: float = 0.0
    retry_at: float = 0.0

    def after_failure(self, now: float, *, at_once: bool) -> Backoff:
        """The state after one more failure: 0.1 s, 0.2 s … 5 s; the first retry at once if the outcome is unknown."""
        failures = self.failures + 1
        delay = 0.0 if at_once and failures == 1 else min(LONGEST_S, FIRST_S * 2 ** min(failures - 1, 10))
        return Backoff(failures=failures, since=self.since if self.failures else now, retry_at=now + delay)

    def exhausted(self, now: float, give_up_s: float | None) -> bool:
        """Whether it has failed without a break for longer than ``give_up_s`` (None: never)."""
        return give_up_s is not None and self.failures > 0 and now - self.since > give_up_s
