"""The PostgreSQL source keeps every rule of the contract, on the newest server and on the oldest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import postgres_server
import pytest
from source_rules import RULES, Stage

from raypipe.contracts import Source
from raypipe.sources import open_source

MAJORS = [major for major in postgres_server.majors() if major in (18, 15)]


class PostgresDatabase(postgres_server.Database):
    """Its tables have the replica identity FULL, with which the server tells the whole row that was."""

    def write(self, *statements: str) -> None:
        named = [statement.split("(")[0].split()[-1] for statement in statements if "CREATE TABLE" in statement]
        super().write(*statements, *(f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in named))

    def source(self, tables: Sequence[str]) -> Source:
        return open_source("shop", self.url, tables)


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"postgres-{major}")
def server(request) -> Iterator[postgres_server.Server]:
    with postgres_server.running(request.param) as server:
        yield server


@pytest.fixture
def stage(server, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(lambda folder: PostgresDatabase(server), tmp_path)
    yield stage
    stage.clear()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_postgres_source(rule, stage):
    rule(stage)
