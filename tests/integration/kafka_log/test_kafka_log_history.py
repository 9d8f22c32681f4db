"""Any history of appends, commits, aborts, takeovers and reopenings agrees with a model of a few lines."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from kafka_lab import changes, ids, new_pipeline
from log_history import INSTANCES, LogHistory, instances

from cluster.services.kafka import KafkaCluster
from raypipe.errors import Fenced
from raypipe.log.kafka import KafkaLog
from raypipe.model import ChangeBatch, Cut


class History(LogHistory):
    """Of each instance the rows that are whole; a cut covers so many of each."""

    bootstrap = ""

    @initialize(partitions=st.sampled_from([1, 3]))
    def begin(self, partitions: int) -> None:
        self.url = f"kafka://{self.bootstrap}?partitions={partitions}"
        self.whole: dict[str, list[int]] = {name: [] for name in INSTANCES}
        self.forgotten = dict.fromkeys(INSTANCES, 0)
        pipeline = new_pipeline()
        self.begin_with(KafkaLog.create(self.url, pipeline), pipeline)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()

    def opened(self) -> KafkaLog:
        return KafkaLog.open(self.url, self.pipeline)

    def changes(self, *numbers: int) -> ChangeBatch:
        return changes(*numbers)

    def becomes_whole(self, instance: str, numbers: list[int]) -> dict[str, int]:
        self.whole[instance] += numbers
        return {name: len(held) for name, held in self.whole.items()}

    def rows_whole(self) -> int:
        return sum(len(held) for held in self.whole.values())

    @rule(instance=instances)
    def a_stale_writer_tries(self, instance: str) -> None:
        for claim in self.stale[-1:]:
            with pytest.raises(Fenced):
                self.log.begin(instance, claim).commit("stale", boundary=True)
        # It took nobody's transactional id: it was refused before.
        self.log.begin(instance, self.claim).abort()

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "log"):
            self.agree()

    def compare(self, after: Cut | None, upto: Cut, begin: dict[str, int], end: dict[str, int], max_bytes: int) -> None:
        for name in INSTANCES:
            parts = self.log.slices(after, upto, [self.topic(name)], max_bytes)
            found = ids([batch for part in parts for batch in self.log.read(part)])
            expected = self.whole[name][begin[name] : end[name]]
            # The rows of one append may come by partition; all have different keys.
            assert sorted(found) == expected


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
