"""The run's side of a verification (see ``raypipe.engine.hold``)."""

from __future__ import annotations

from raypipe.contracts import Crew, Log, ReaderOrder, ReaderReport
from raypipe.engine.coordinator import Coordinator
from raypipe.engine.hold import ANSWER_NOTE, REQUEST_NOTE, HoldAnswer, HoldRequest, Phase


class Holds:
    """Serves one verification at a time; ``serve`` is called often by the conductor's thread."""

    def __init__(self, log: Log, crew: Crew, coordinator: Coordinator) -> None:
        self._log = log
        self._crew = crew
        self._coordinator = coordinator
        self._answer: HoldAnswer | None = None
        self._orders: dict[str, ReaderOrder] = {}

    @property
    def active(self) -> bool:
        """A verification is under way."""
        return self._answer is not None

    def serve(self, now: float) -> None:
        """Does the next bit of what the request asks for.

        Args:
            now: Seconds since 1970.
        """
        text = self._log.notes(REQUEST_NOTE).get(REQUEST_NOTE)
        request = HoldRequest.from_json(text) if text is not None else None
        if request is None or request.expired(now):
            if self._answer is not None:
                self._release()
            if request is not None:
                self._log.write_note(REQUEST_NOTE, None)
            return
        if self._answer is None or self._answer.id != request.id:
            self._release()
            self._say(HoldAnswer(id=request.id))
        if request.phase is Phase.HOLD:
            self._hold(request)
        else:
            self._cut(request)

    def _hold(self, request: HoldRequest) -> None:
        order = ReaderOrder(hold=True)
        self._order_all(dict.fromkeys(self._crew.readers(), order))
        if self._all_settled() and self._answer is not None and not self._answer.held:
            self._say(HoldAnswer(id=request.id, held=True))

    def _cut(self, request: HoldRequest) -> None:
        answer = self._answer
        if answer is None or answer.ready:
            return
        if answer.cut is None:
            self._order_all({name: ReaderOrder(upto=at) for name, at in request.positions.items()})
            last = self._log.last_cut()
            if not self._all_settled() or last is None:
                return
            # Every reader stands at its position and polls nothing beyond it, so the newest cut is the one asked for.
            self._coordinator.hold_at(last.number)
            self._order_all(dict.fromkeys(self._crew.readers(), ReaderOrder()))
            self._say(HoldAnswer(id=request.id, held=True, cut=last.number))
        elif self._coordinator.at_barrier():
            self._crew.rest()
            self._say(HoldAnswer(id=request.id, held=True, cut=answer.cut, ready=True))

    def _order_all(self, orders: dict[str, ReaderOrder]) -> None:
        for name, order in orders.items():
            self._crew.order(name, order)
        self._orders = orders

    def _all_settled(self) -> bool:
        reports = self._crew.readers()
        return all(name in reports and _obeys(reports[name], order) for name, order in self._orders.items())

    def _release(self) -> None:
        self._answer = None
        self._coordinator.hold_at(None)
        self._order_all(dict.fromkeys(self._crew.readers(), ReaderOrder()))
        self._log.write_note(ANSWER_NOTE, None)

    def _say(self, answer: HoldAnswer) -> None:
        self._answer = answer
        self._log.write_note(ANSWER_NOTE, answer.to_json())


def _obeys(report: ReaderReport, order: ReaderOrder) -> bool:
    return report.settled and report.order == order
