"""Chooses the next epoch: which sinks go from which cut to which, and what the log may forget.

Every sink keeps its own cut (ADR 0003), so sinks need not move in step: those that hold the same cut share an epoch,
and one that fell behind catches up by itself while the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from raypipe.engine.backoff import Backoff
from raypipe.engine.sizing import EpochSizing
from raypipe.errors import Directive, InvariantBroken, RaypipeError
from raypipe.model import Cut


@dataclass(frozen=True, kw_only=True)
class RunEpoch:
    """Carry the sinks from one cut to the next."""

    sinks: tuple[str, ...]
    after: Cut | None
    upto: Cut


@dataclass(frozen=True, kw_only=True)
class OpenSink:
    """Open (again) a sink and report what it holds."""

    sink: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to do before ``until`` (seconds of the caller's clock), unless a new cut comes; None: only then."""

    until: float | None


Decision = RunEpoch | OpenSink | Wait


@dataclass(frozen=True, kw_only=True)
class SinkProgress:
    """Where one sink stands.

    Attributes:
        held: It was opened and nothing failed since; only then is ``cut`` what the store holds.
        cut: Last committed.
        backoff: After failures.
        error: The last one, empty when it works.
        commits: Since this coordinator began.
    """

    held: bool = False
    cut: Cut | None = None
    backoff: Backoff = field(default_factory=Backoff)
    error: str = ""
    commits: int = 0


class Coordinator:
    """Decides; the caller does and reports back. Deterministic: time comes in as an argument."""

    def __init__(self, sinks: Iterable[str], sizing: EpochSizing) -> None:
        self._sinks = {name: SinkProgress() for name in sinks}
        self._sizing = sizing
        self._barrier: int | None = None
        self._carried: set[int] = set()  # cuts that epochs were to end at, as far as a sink may hold them

    @property
    def sinks(self) -> dict[str, SinkProgress]:
        """A copy of where each sink stands."""
        return dict(self._sinks)

    def hold_at(self, cut_number: int | None) -> None:
        """No epoch may cross this cut until it is lifted with None: sinks come to rest exactly there."""
        self._barrier = cut_number

    def at_barrier(self) -> bool:
        """Whether every sink holds exactly the barrier's cut."""
        return self._barrier is not None and all(
            sink.held and sink.cut is not None and sink.cut.number == self._barrier for sink in self._sinks.values()
        )

    def opened(self, sink: str, cut: Cut | None) -> None:
        """A sink was opened and holds this cut."""
        self._sinks[sink] = replace(self._sinks[sink], held=True, cut=cut)

    def committed(self, sink: str, cut: Cut) -> None:
        """A sink committed an epoch.

        Raises:
            InvariantBroken: it went back.
        """
        before = self._sinks[sink]
        if before.cut is not None and cut.number < before.cut.number:
            raise InvariantBroken(f"Sink {sink} went from cut {before.cut.number} back to {cut.number}.")
        self._sinks[sink] = replace(before, cut=cut, backoff=Backoff(), error="", commits=before.commits + 1)

    def failed(self, sink: str, error: RaypipeError, now: float) -> None:
        """A sink failed in any way that a retry or a reopening may mend: what it holds must be asked again."""
        before = self._sinks[sink]
        backoff = before.backoff.after_failure(now, at_once=error.directive is Directive.REOPEN)
        self._sinks[sink] = replace(before, held=False, backoff=backoff, error=str(error))

    def reopen(self, sink: str) -> None:
        """What a sink holds must be asked again, though nothing failed."""
        self._sinks[sink] = replace(self._sinks[sink], held=False)

    def goes_on_from(self) -> set[int]:
        """Numbers of the cuts that an epoch may begin at; while a sink is not open, also all later ones that were held.

        A sink that failed may hold a later cut than it is known to hold: one that another sink was carried to.
        """
        known = {_number(sink.cut) for sink in self._sinks.values()}
        if all(sink.held for sink in self._sinks.values()):
            self._carried = {number for number in self._carried if number in known}
        return known | self._carried

    def exhausted(self, now: float, give_up_s: float | None) -> str | None:
        """A sink that has failed for longer than ``give_up_s``; None if there is none."""
        return next((name for name, s in self._sinks.items() if s.backoff.exhausted(now, give_up_s)), None)

    def observe(self, size_bytes: int, seconds: float) -> None:
        """The measure of a finished epoch."""
        self._sizing.observe(size_bytes, seconds)

    def furthest_behind(self) -> int:
        """Number of the lowest cut held by a sink that is open; 0 if one holds none. Cuts above it are of interest."""
        return min((_number(s.cut) for s in self._sinks.values() if s.held), default=0)

    def decide(self, cuts: Sequence[Cut], now: float) -> Decision:
        """What to do next.

        Args:
            cuts: Cuts above ``furthest_behind()``, oldest first; need not be all of them.
            now: Seconds of the caller's clock.
        """
        for name, sink in self._sinks.items():
            if not sink.held and sink.backoff.retry_at <= now:
                return OpenSink(sink=name)
        behind = sorted({_number(s.cut) for s in self._sinks.values() if s.held})
        for start in behind:
            members = tuple(name for name, s in self._sinks.items() if s.held and _number(s.cut) == start)
            after = self._sinks[members[0]].cut
            # Laggards stop where the next group stands, so that the groups become one again.
            others = [number for number in behind if number > start]
            upto = self._choose(after, cuts, ceiling=others[0] if others else None)
            if upto is not None:
                self._carried.add(upto.number)
                return RunEpoch(sinks=members, after=after, upto=upto)
        retries = [sink.backoff.retry_at for sink in self._sinks.values() if not sink.held]
        return Wait(until=min(retries, default=None))

    def _choose(self, after: Cut | None, cuts: Sequence[Cut], ceiling: int | None) -> Cut | None:
        budget = self._sizing.budget_bytes()
        base_bytes = after.bytes if after is not None else 0
        chosen: Cut | None = None
        for cut in cuts:
            if cut.number <= _number(after):
                continue
            if self._barrier is not None and cut.number > self._barrier:
                break
            if ceiling is not None and cut.number > ceiling:
                break
            if chosen is not None and cut.bytes - base_bytes > budget:
                break
            chosen = cut
        return chosen

    def forgettable(self) -> Cut | None:
        """The cut below which no sink needs the log any more; None while a sink holds none or is not open."""
        lowest: Cut | None = None
        for sink in self._sinks.values():
            if sink.cut is None:
                return None
            if lowest is None or sink.cut.number < lowest.number:
                lowest = sink.cut
        return lowest

    def caught_up(self, last: Cut | None) -> bool:
        """Whether every sink holds the newest cut."""
        return all(s.held and _number(s.cut) >= _number(last) for s in self._sinks.values())


def _number(cut: Cut | None) -> int:
    return cut.number if cut is not None else 0
