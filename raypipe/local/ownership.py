"""What is a run's own: the pipeline in its log, and its sinks, which may turn out to be another log's."""

from __future__ import annotations

from raypipe.contracts import Crew, Log
from raypipe.errors import Fenced, SourceGap
from raypipe.model import Claim, Committed, Cut
from raypipe.plan.model import Plan
from raypipe.spec.url import redact


class Ownership:
    """Of one run.

    Args:
        plan: Of the pipeline.
        log: For the conductor's thread.
        crew: Opens the sinks.
    """

    def __init__(self, plan: Plan, log: Log, crew: Crew) -> None:
        self._plan = plan
        self._log = log
        self._crew = crew
        self._claim = Claim(pipeline=plan.pipeline, run=0, generation=0)

    def claim(self) -> int:
        """Takes the pipeline over; returns the number of the run.

        Raises:
            Unavailable: the log is locked or away.
        """
        self._claim = self._log.claim(self._plan.pipeline)
        return self._claim.run

    def renewed(self) -> Claim:
        """The claim with a generation above all that were given out.

        Raises:
            Fenced: there is a later run.
        """
        return self._log.renew(self._claim)

    def lost(self, error: Fenced) -> Fenced:
        """What to say when a later run has taken the pipeline over."""
        return Fenced(
            f"A later run of pipeline {self._plan.pipeline} took over from run {self._claim.run}; this one stopped, "
            "and nothing it still had in hand was written.",
            remedy="Let only one run of a pipeline be at work.",
            cause=error,
            run=self._claim.run,
        )

    def open_sink(self, sink: str) -> tuple[Committed, Cut | None]:
        """Opens a sink; returns what it holds, and the cut it stands at as this log knows it.

        Raises:
            Fenced: there is a later run.
            SourceGap: the sink belongs to a run of another log, or holds a cut of one, or one this log never had.
        """
        try:
            committed = self._crew.open_sink(sink, self.renewed())
        except Fenced as error:
            # Fenced again if there is a later run. The generations of another log mean nothing here.
            self.renewed()
            raise self._of_another_log(f"Sink {sink} was claimed by a run", sink) from error
        return committed, self._known(sink, committed.cut)

    def _known(self, sink: str, cut: Cut | None) -> Cut | None:
        """A store keeps a cut's number, the log what it means."""
        if cut is None:
            return None
        known = self._log.cut(cut.number)
        if known is None or (cut.log and cut.log != self._log.identity):
            raise self._of_another_log(f"Sink {sink} holds cut {cut.number}", sink)
        return known

    def _of_another_log(self, what: str, sink: str) -> SourceGap:
        return SourceGap(
            f"{what} of another log than {redact(self._plan.log)}.",
            remedy="Put the old log back, or remove the log and what the sink holds (its tables, and "
            "raypipe_commits where there is one), and run again to load anew.",
            sink=sink,
        )
