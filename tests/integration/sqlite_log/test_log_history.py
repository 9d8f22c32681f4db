"""Any history of appends, commits, aborts, takeovers and reopenings agrees with a model of a few lines."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from log_history import LogHistory, instances
from log_scene import changes, ids, opened

from raypipe.errors import Fenced
from raypipe.log.sqlite import SqliteLog
from raypipe.model import ChangeBatch, Cut


class History(LogHistory):
    """All rows that are whole in the order in which they became so; a cut covers so many of them."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "log.db"
        self.whole: list[tuple[str, int]] = []
        self.forgotten = 0
        self.begin_with(self.opened(), "p")

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
            self.folder.cleanup()

    def opened(self) -> SqliteLog:
        return opened(self.path)

    def changes(self, *numbers: int) -> ChangeBatch:
        return changes(*numbers)

    def becomes_whole(self, instance: str, numbers: list[int]) -> int:
        self.whole += [(instance, number) for number in numbers]
        return self.rows_whole()

    def rows_whole(self) -> int:
        return len(self.whole)

    @rule(instance=instances)
    def a_stale_writer_tries(self, instance: str) -> None:
        for claim in self.stale[-2:]:
            with pytest.raises(Fenced):
                self.log.begin(instance, claim)

    @rule(data=st.data(), max_bytes=st.sampled_from([1, 5_000, 1 << 20]))
    def read_some_topics(self, data: st.DataObject, max_bytes: int) -> None:
        if self.cuts:
            upto, end = data.draw(st.sampled_from(self.cuts))
            names = data.draw(st.sets(instances))
            topics = [self.topic(name) for name in names]
            found = self.rows_of(self.cuts[0][0], upto, topics, max_bytes)
            assert found == [number for name, number in self.whole[self.cuts[0][1] : end] if name in names]

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "log"):
            self.agree()

    def compare(self, after: Cut | None, upto: Cut, begin: int, end: int, max_bytes: int) -> None:
        found = self.rows_of(after, upto, list(upto.offsets), max_bytes)
        assert found == [number for _, number in self.whole[begin:end]]

    def rows_of(self, after: Cut | None, upto: Cut, topics: list[str], max_bytes: int) -> list[int]:
        parts = self.log.slices(after, upto, tuple(topics), max_bytes)
        return ids([batch for part in parts for batch in self.log.read(part)])


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
