"""The source over Debezium's topics keeps every rule that topics can keep, with schemas in the messages and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from debezium_writer import Connector
from source_rules import RULES, Stage

from cluster.services.kafka import KafkaCluster
from raypipe.contracts import Source
from raypipe.sources import open_source

# Rules that no reader of these topics can keep, and why.
NEVER = {
    "a_cut_never_tears_a_transaction": "its messages lie in several topics, and nothing says which they are",
}


class TopicDatabase(Connector):
    def source(self, tables: Sequence[str]) -> Source:
        return open_source("shop", self.url, tables)


@pytest.fixture(params=[True, False], ids=["schemas", "bare"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, kafka: KafkaCluster) -> Iterator[Stage]:
    stage = Stage(lambda folder: TopicDatabase(kafka.bootstrap, schemas=request.param), tmp_path)
    yield stage
    stage.clear()


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(
            rule,
            marks=[pytest.mark.xfail(reason=NEVER[rule.__name__], raises=AssertionError)]
            if rule.__name__ in NEVER
            else [],
        )
        for rule in RULES
    ],
    ids=lambda rule: rule.__name__,
)
def test_debezium_source(rule, stage):
    rule(stage)
