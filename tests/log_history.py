"""What the random histories of every log have in common: who writes what, and what the log must say of it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from raypipe.contracts import Log
from raypipe.model import ChangeBatch, Claim, Cut

INSTANCES = ("east", "west")
instances = st.sampled_from(INSTANCES)


class LogHistory(RuleBasedStateMachine):
    """Keeps a model beside the log: what is whole, what is not yet, and how much every cut covers.

    A subclass makes the log, keeps what is whole in its own way, and compares.
    """

    log: Log

    def begin_with(self, log: Log, pipeline: str) -> None:
        """Begins with a new log."""
        self.log = log
        self.pipeline = pipeline
        self.claim = log.claim(pipeline)
        self.stale: list[Claim] = []
        self.next_id = 0
        self.tail: dict[str, list[int]] = {name: [] for name in INSTANCES}
        self.position: dict[str, str | None] = dict.fromkeys(INSTANCES)
        self.cut_position: dict[str, str] = {}
        self.cuts: list[tuple[Cut, Any]] = []

    def opened(self) -> Log:
        """The same log, opened once more."""
        raise NotImplementedError

    def changes(self, *numbers: int) -> ChangeBatch:
        """One insert for each."""
        raise NotImplementedError

    def becomes_whole(self, instance: str, numbers: list[int]) -> Any:
        """Notes what a cut has made whole; returns how much is whole now, as ``compare`` takes it."""
        raise NotImplementedError

    def rows_whole(self) -> int:
        """Of all instances."""
        raise NotImplementedError

    def compare(self, after: Cut | None, upto: Cut, begin: Any, end: Any, max_bytes: int) -> None:
        """What the log gives between two cuts is what was whole at the second and not at the first."""
        raise NotImplementedError

    def topic(self, instance: str) -> str:
        return f"{self.pipeline}.{instance}.main.t"

    @rule(instance=instances, sizes=st.lists(st.integers(0, 3), max_size=3), boundary=st.booleans())
    def commit(self, instance: str, sizes: list[int], boundary: bool) -> None:
        transaction = self.log.begin(instance, self.claim)
        for size in sizes:
            new = list(range(self.next_id, self.next_id + size))
            self.next_id += size
            transaction.append(self.topic(instance), self.changes(*new))
            self.tail[instance] += new
        position = f"{instance} {self.next_id}"
        cut = transaction.commit(position, boundary=boundary)
        self.position[instance] = position
        assert (cut is not None) == boundary
        if cut is not None:
            covers = self.becomes_whole(instance, self.tail[instance])
            self.tail[instance] = []
            self.cut_position[instance] = position
            assert cut.positions == self.cut_position
            assert cut.rows == self.rows_whole()
            self.cuts.append((cut, covers))

    @rule(instance=instances)
    def abort(self, instance: str) -> None:
        transaction = self.log.begin(instance, self.claim)
        transaction.append(self.topic(instance), self.changes(-1))
        transaction.abort()

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = self.opened()

    @rule(again=st.booleans())
    def take_over(self, again: bool) -> None:
        self.stale.append(self.claim)
        self.claim = self.log.renew(self.claim) if again else self.log.claim(self.pipeline)
        for instance in INSTANCES:
            self.log.begin(instance, self.claim).abort()

    @rule(data=st.data())
    def retain(self, data: st.DataObject) -> None:
        if self.cuts:
            chosen = data.draw(st.integers(0, len(self.cuts) - 1))
            self.cuts = self.cuts[chosen:]
            self.log.retain(self.cuts[0][0])
            self.forgotten = self.cuts[0][1]

    @rule(data=st.data(), max_bytes=st.sampled_from([1, 5_000, 1 << 20]))
    def read(self, data: st.DataObject, max_bytes: int) -> None:
        if self.cuts:
            (after, begin), (upto, end) = sorted(
                (data.draw(st.sampled_from(self.cuts)) for _ in range(2)), key=lambda chosen: chosen[0].number
            )
            self.compare(after, upto, begin, end, max_bytes)

    def agree(self) -> None:
        """Positions, cuts and all that is kept are as the model has them."""
        assert {name: self.log.position(name) for name in INSTANCES} == self.position
        assert self.log.cuts() == [cut for cut, _ in self.cuts]
        if self.cuts:
            last, covers = self.cuts[-1]
            assert self.log.last_cut() == last
            self.compare(None, last, self.forgotten, covers, 1 << 20)
