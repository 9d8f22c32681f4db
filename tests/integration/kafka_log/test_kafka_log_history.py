"""Any history of appends, commits, aborts, takeovers and reopenings agrees with a model of a few lines."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from kafka_lab import changes, ids, new_pipeline

from cluster.services.kafka import KafkaCluster
from raypipe.errors import Fenced
from raypipe.log.kafka import KafkaLog
from raypipe.model import Claim, Cut

INSTANCES = ("east", "west")
instances = st.sampled_from(INSTANCES)


class History(RuleBasedStateMachine):
    """The model: per instance what is whole and what is not yet, and how much of each every cut covers."""

    bootstrap = ""

    @initialize(partitions=st.sampled_from([1, 3]))
    def begin(self, partitions: int) -> None:
        self.url = f"kafka://{self.bootstrap}?partitions={partitions}"
        self.pipeline = new_pipeline()
        self.log = KafkaLog.create(self.url, self.pipeline)
        self.claim = self.log.claim(self.pipeline)
        self.stale: list[Claim] = []
        self.next_id = 0
        self.whole: dict[str, list[int]] = {name: [] for name in INSTANCES}
        self.tail: dict[str, list[int]] = {name: [] for name in INSTANCES}
        self.position: dict[str, str | None] = dict.fromkeys(INSTANCES)
        self.cut_position: dict[str, str] = {}
        self.cuts: list[tuple[Cut, dict[str, int]]] = []
        self.forgotten = dict.fromkeys(INSTANCES, 0)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()

    @rule(instance=instances, sizes=st.lists(st.integers(0, 3), max_size=3), boundary=st.booleans())
    def commit(self, instance: str, sizes: list[int], boundary: bool) -> None:
        transaction = self.log.begin(instance, self.claim)
        for size in sizes:
            new = list(range(self.next_id, self.next_id + size))
            self.next_id += size
            transaction.append(self.topic(instance), changes(*new))
            self.tail[instance] += new
        position = f"{instance} {self.next_id}"
        cut = transaction.commit(position, boundary=boundary)
        self.position[instance] = position
        assert (cut is not None) == boundary
        if cut is not None:
            self.whole[instance] += self.tail[instance]
            self.tail[instance] = []
            self.cut_position[instance] = position
            assert cut.positions == self.cut_position
            assert cut.rows == sum(len(held) for held in self.whole.values())
            self.cuts.append((cut, {name: len(held) for name, held in self.whole.items()}))

    @rule(instance=instances)
    def abort(self, instance: str) -> None:
        transaction = self.log.begin(instance, self.claim)
        transaction.append(self.topic(instance), changes(-1))
        transaction.abort()

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = KafkaLog.open(self.url, self.pipeline)

    @rule(again=st.booleans())
    def take_over(self, again: bool) -> None:
        self.stale.append(self.claim)
        self.claim = self.log.renew(self.claim) if again else self.log.claim(self.pipeline)
        for instance in INSTANCES:
            self.log.begin(instance, self.claim).abort()

    @rule(instance=instances)
    def a_stale_writer_tries(self, instance: str) -> None:
        for claim in self.stale[-1:]:
            with pytest.raises(Fenced):
                self.log.begin(instance, claim).commit("stale", boundary=True)
        # It took nobody's transactional id: it was refused before.
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
            self.check(after, upto, begin, end, max_bytes)

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "log"):
            assert {name: self.log.position(name) for name in INSTANCES} == self.position
            assert self.log.cuts() == [cut for cut, _ in self.cuts]
            if self.cuts:
                last, covers = self.cuts[-1]
                assert self.log.last_cut() == last
                self.check(None, last, self.forgotten, covers, 1 << 20)

    def check(self, after: Cut | None, upto: Cut, begin: dict[str, int], end: dict[str, int], max_bytes: int) -> None:
        for name in INSTANCES:
            parts = self.log.slices(after, upto, [self.topic(name)], max_bytes)
            found = ids([batch for part in parts for batch in self.log.read(part)])
            expected = self.whole[name][begin[name] : end[name]]
            # The rows of one append may come by partition; all have different keys.
            assert sorted(found) == expected

    def topic(self, instance: str) -> str:
        return f"{self.pipeline}.{instance}.main.t"


def test_any_history_agrees_with_the_model(kafka: KafkaCluster) -> None:
    class OnThisBroker(History):
        bootstrap = kafka.bootstrap

    run_state_machine_as_test(
        OnThisBroker,
        settings=settings(
            max_examples=6,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
