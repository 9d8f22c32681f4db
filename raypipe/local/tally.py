"""What a run has done so far, and how its parts stand, in the words of its status."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from raypipe.contracts import EpochOutcome, ReaderReport
from raypipe.engine.coordinator import SinkProgress
from raypipe.engine.status import InstanceStatus, SinkStatus
from raypipe.model import Cut

# Speed is told over the last seconds: long enough to be steady, short enough to show what happens now.
WINDOW_S = 5.0


@dataclass(kw_only=True)
class Tally:
    """Counts of a run; see ``Status`` for their meaning."""

    epochs: int = 0
    rows: int = 0
    executors: dict[str, int] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)  # (time, rows) within the window

    def add(self, outcome: EpochOutcome, now: float) -> None:
        """Counts a committed epoch."""
        self.epochs += 1
        self.rows += outcome.rows
        self._recent.append((now, outcome.rows))
        self.executors[outcome.executor] = self.executors.get(outcome.executor, 0) + 1
        for stage, seconds in outcome.seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def rows_per_s(self, now: float, began: float) -> float:
        """Over the last seconds, or since the run began."""
        while self._recent and now - self._recent[0][0] > WINDOW_S:
            self._recent.popleft()
        window = max(0.5, min(WINDOW_S, now - began))
        return sum(rows for _, rows in self._recent) / window

    def stage_s(self, reports: Iterable[ReaderReport]) -> dict[str, float]:
        """Seconds by stage, the readers' own included."""
        seconds = dict(self._seconds)
        for report in reports:
            for stage, spent in report.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + spent
        return {stage: round(spent, 3) for stage, spent in seconds.items()}


def instance_status(name: str, report: ReaderReport) -> InstanceStatus:
    """An instance as its reader reports it."""
    return InstanceStatus(
        name=name,
        state=report.state,
        position=report.position,
        loading=dict(report.loading),
        pending=report.pending,
        parked=report.parked,
        rows=report.rows,
        error=report.error,
        kept=dict(report.kept),
    )


def sink_status(name: str, progress: SinkProgress, last: Cut | None, lag_s: Callable[[], float]) -> SinkStatus:
    """A sink as the coordinator knows it.

    Args:
        name: Of the unit of commit.
        progress: Of it.
        last: The newest cut of the log.
        lag_s: Asked only of a sink that is behind it.
    """
    cut = progress.cut
    behind = last is not None and (cut is None or cut.number < last.number)
    return SinkStatus(
        name=name,
        state="ready" if progress.held else ("retrying" if progress.error else "opening"),
        cut=cut.number if cut is not None else None,
        position=dict(cut.positions) if cut is not None else {},
        lag_rows=last.rows - (cut.rows if cut is not None else 0) if last is not None and behind else 0,
        lag_s=lag_s() if behind else 0.0,
        commits=progress.commits,
        error=progress.error,
    )
