"""The cuts that are kept: the newest in memory, older ones found again by going on from a state near them."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from raypipe.log.kafka.fold import Base, Fold
from raypipe.log.kafka.records import CutRecord
from raypipe.model import Cut

Numbered = tuple[int, CutRecord]
# Records above a number up to another (both of records), read again from the topic.
Fetch = Callable[[int, int], Iterator[Numbered]]

# A state is kept every so many records: going on from one costs about a millisecond.
_STRIDE = 256
# States kept in memory. With a thousand tables each is about a MiB.
_STATES = 32
# Records kept in memory, some hundred bytes each; a backlog of more is read again from Kafka.
_WINDOW = 16_384


class History:
    """Folds records as they come and answers for every cut that is kept.

    Args:
        base: To begin with.
        fetch: Reads records again that have left memory.
        window: Records to keep in memory.
    """

    def __init__(self, base: Base, fetch: Fetch, window: int = _WINDOW) -> None:
        self.base = base
        self.now: Fold = base.fold.copy()
        self._fetch = fetch
        self._most = window
        self._window: deque[Numbered] = deque()
        self._window_begins = base.fold.number  # every record above this one is in the window
        self._states: list[Fold] = [base.fold.copy()]
        self._stride = _STRIDE
        self._since_state = 0
        self._last: Cut | None = None
        self._last_number = 0

    def apply(self, number: int, record: CutRecord) -> None:
        """Takes the next record.

        Raises:
            ValueError: one before it is missing.
        """
        self.now.apply(number, record)
        self._window.append((number, record))
        self._since_state += 1
        if self._since_state >= self._stride:
            self._states.append(self.now.copy())
            self._since_state = 0
            if len(self._states) > _STATES:
                # A longer backlog is looked up more coarsely: every second state goes, the first stays.
                del self._states[1::2]
                self._stride *= 2
        while len(self._window) > self._most:
            self._window_begins = self._window.popleft()[0]
        if record.boundary:
            self._last = None
            self._last_number = number

    @property
    def last_number(self) -> int:
        """Of the newest cut, 0 if there is none."""
        return self._last_number

    def last(self) -> Cut | None:
        """The newest cut."""
        if self._last is None and self._last_number:
            self._last = self.now.cut() if self.now.number == self._last_number else self.cut(self._last_number)
        return self._last

    def cut(self, number: int) -> Cut | None:
        """The cut of that number, None if it is not kept or not a cut."""
        state = self.state_at(number)
        return None if state is None else state.cut()

    def cuts(self, after: int, limit: int) -> list[Cut]:
        """Cuts with a number above ``after``, oldest first."""
        found: list[Cut] = []
        if after >= self._last_number or limit <= 0:
            return found
        state = self.state_before(max(after + 1, self.base.oldest))
        assert state is not None
        for number, record in self.records_after(state.number):
            state.apply(number, record)
            if record.boundary and number > after and number >= self.base.oldest:
                found.append(state.cut())
                if len(found) == limit:
                    break
        return found

    def state_before(self, number: int) -> Fold | None:
        """A state below a number, to go on from; None if that was forgotten."""
        if number < max(self.base.oldest, 1):
            return None
        at = bisect_right(self._states, number - 1, key=lambda state: state.number) - 1
        return self._states[at].copy() if at >= 0 else None

    def state_at(self, number: int) -> Fold | None:
        """The state as of the cut of that number; None if it is not kept or not a cut."""
        state = self.state_before(number)
        if state is None:
            return None
        for at, record in self.records_after(state.number):
            if at > number:
                return None
            state.apply(at, record)
            if at == number:
                return state if record.boundary else None
        return None

    def records_after(self, number: int) -> Iterator[Numbered]:
        """Records above a number, oldest first."""
        if number < self._window_begins:
            yield from self._fetch(number, self._window_begins)
            number = self._window_begins
        begin = bisect_right(self._window, number, key=lambda numbered: numbered[0])
        yield from islice(list(self._window), begin, None)

    def forget(self, base: Base) -> None:
        """Moves the beginning; records below it will not be asked for again."""
        if base.oldest <= self.base.oldest or base.fold.number > self.now.number:
            return
        self.base = base
        while self._window and self._window[0][0] <= base.fold.number:
            self._window.popleft()
        self._window_begins = max(self._window_begins, base.fold.number)
        self._states = [base.fold.copy(), *(s for s in self._states if s.number > base.fold.number)]
