"""Any history of appends, commits, aborts, takeovers and reopenings agrees with a model of a few lines."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from log_scene import changes, ids, opened

from raypipe.errors import Fenced
from raypipe.model import Claim, Cut

INSTANCES = ("east", "west")
instances = st.sampled_from(INSTANCES)


class History(RuleBasedStateMachine):
    """The model: per instance what is whole and what is not yet; the order of what cuts cover."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "log.db"
        self.log = opened(self.path)
        self.claim = self.log.claim("p")
        self.stale: list[Claim] = []
        self.next_id = 0
        self.whole: list[tuple[str, int]] = []
        self.tail: dict[str, list[int]] = {name: [] for name in INSTANCES}
        self.position: dict[str, str | None] = dict.fromkeys(INSTANCES)
        self.cut_position: dict[str, str] = {}
        self.cuts: list[tuple[Cut, int]] = []
        self.forgotten = 0

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
            self.folder.cleanup()

    @rule(instance=instances, sizes=st.lists(st.integers(0, 3), max_size=3), boundary=st.booleans())
    def commit(self, instance: str, sizes: list[int], boundary: bool) -> None:
        transaction = self.log.begin(instance, self.claim)
        for size in sizes:
            new = list(range(self.next_id, self.next_id + size))
            self.next_id += size
            transaction.append(f"p.{instance}.main.t", changes(*new))
            self.tail[instance] += new
        position = f"{instance} {self.next_id}"
        cut = transaction.commit(position, boundary=boundary)
        self.position[instance] = position
        assert (cut is not None) == boundary
        if cut is not None:
            self.whole += [(instance, number) for number in self.tail[instance]]
            self.tail[instance] = []
            self.cut_position[instance] = position
            assert cut.positions == self.cut_position
            assert cut.rows == len(self.whole)
            self.cuts.append((cut, len(self.whole)))

    @rule(instance=instances)
    def abort(self, instance: str) -> None:
        transaction = self.log.begin(instance, self.claim)
        transaction.append(f"p.{instance}.main.t", changes(-1))
        transaction.abort()

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = opened(self.path)

    @rule(again=st.booleans())
    def take_over(self, again: bool) -> None:
        self.stale.append(self.claim)
        self.claim = self.log.renew(self.claim) if again else self.log.claim("p")
        for instance in INSTANCES:
            self.log.begin(instance, self.claim).abort()

    @rule(instance=instances)
    def a_stale_writer_tries(self, instance: str) -> None:
        for claim in self.stale[-2:]:
            with pytest.raises(Fenced):
                self.log.begin(instance, claim)

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
            topics = [f"p.{name}.main.t" for name in data.draw(st.sets(instances))]
            parts = self.log.slices(after, upto, topics, max_bytes)
            found = [batch for part in parts for batch in self.log.read(part)]
            expected = [number for name, number in self.whole[begin:end] if f"p.{name}.main.t" in topics]
            assert ids(found) == expected

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "log"):
            assert {name: self.log.position(name) for name in INSTANCES} == self.position
            assert self.log.cuts() == [cut for cut, _ in self.cuts]
            if self.cuts:
                last = self.log.last_cut()
                assert last is not None
                parts = self.log.slices(None, last, tuple(last.offsets), 1 << 20)
                found = ids([batch for part in parts for batch in self.log.read(part)])
                assert found == [number for _, number in self.whole[self.forgotten :]]


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
