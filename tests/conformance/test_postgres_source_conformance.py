"""The PostgreSQL source keeps every rule of the contract, on the newest server and on the oldest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from postgres_database import Database
from source_rules import RULES, Stage

from raypipe.contracts import Source
from raypipe.sources import open_source


class PostgresDatabase(Database):
    """Its tables have the replica identity FULL, with which the server tells the whole row that was."""

    def write(self, *statements: str) -> None:
        named = [statement.split("(")[0].split()[-1] for statement in statements if "CREATE TABLE" in statement]
        super().write(*statements, *(f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in named))

    def source(self, tables: Sequence[str]) -> Source:
        return open_source("shop", self.url, tables)


@pytest.fixture(params=["postgres18", "postgres15"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    # A poll that finds nothing then means that there is nothing, however slow the server is to tell.
    monkeypatch.setattr("raypipe.sources.postgres.reader.PATIENCE_S", 60.0)
    server = request.getfixturevalue(request.param)
    stage = Stage(lambda folder: PostgresDatabase(server.url), tmp_path)
    yield stage
    stage.clear()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_postgres_source(rule, stage):
    rule(stage)
