"""The source over Debezium's topics keeps the rules: schemas in its messages or not, transactions told or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from debezium_writer import Connector
from source_rules import RULES, Stage

from cluster.services.kafka import KafkaCluster
from raypipe.contracts import MayTear, Source
from raypipe.sources import open_source


class TopicDatabase(Connector):
    def source(self, tables: Sequence[str]) -> Source:
        return open_source("shop", self.url, tables)


@pytest.fixture(params=["schemas", "bare", "transactions"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, kafka: KafkaCluster) -> Iterator[Stage]:
    def make(_: Path) -> TopicDatabase:
        return TopicDatabase(
            kafka.bootstrap, schemas=request.param == "schemas", transactions=request.param == "transactions"
        )

    stage = Stage(make, tmp_path)
    yield stage
    stage.clear()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_debezium_source(rule, stage):
    rule(stage)


def test_a_source_says_whether_its_cuts_may_tear_transactions() -> None:
    told = {}
    for options in ("", "&transactions=cdc.transaction"):
        source = open_source("shop", f"kafka://h:1?prefix=cdc.public{options}", ["a", "b"])
        assert isinstance(source, MayTear)
        told[options] = source.tears()
    assert "provide.transaction.metadata" in (told[""] or "")
    assert told["&transactions=cdc.transaction"] is None
