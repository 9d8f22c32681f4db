"""Every source keeps every rule of the contract; a source that forgets some is found out by these very rules."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from source_rules import RULES, Database, Stage
from weak_source import KEPT, WeakSource

from raypipe.contracts import Source
from raypipe.sources import open_source


class SqliteDatabase:
    """A SQLite file and a writer that knows nothing of raypipe."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.db"
        self._writer = sqlite3.connect(self.path, isolation_level=None)
        self._writer.execute("PRAGMA journal_mode=wal")

    def write(self, *statements: str) -> None:
        self._transaction(statements, "COMMIT")

    def roll_back(self, *statements: str) -> None:
        self._transaction(statements, "ROLLBACK")

    def _transaction(self, statements: Sequence[str], end: str) -> None:
        for statement in ("BEGIN", *statements, end):
            self._writer.execute(statement)

    def source(self, tables: Sequence[str]) -> Source:
        return open_source("shop", f"sqlite:///{self.path}", tables)

    def close(self) -> None:
        self._writer.close()


class RollbackJournalDatabase(SqliteDatabase):
    """The same with a rollback journal, under which readers and writers exclude each other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._writer.execute("PRAGMA journal_mode=delete")


class PolledDatabase(SqliteDatabase):
    """The same, read by the weak source."""

    def source(self, tables: Sequence[str]) -> Source:
        return WeakSource("shop", self.path, tables)


@pytest.fixture
def stage(make: Callable[[Path], Database], tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(make, tmp_path)
    yield stage
    stage.clear()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("make", [SqliteDatabase, RollbackJournalDatabase], ids=["sqlite-wal", "sqlite-journal"])
def test_source(rule, make, stage):
    rule(stage)


def test_a_source_that_only_looks_right_is_found_out(tmp_path):
    kept = set()
    for rule in RULES:
        stage = Stage(PolledDatabase, tmp_path / rule.__name__)
        try:
            rule(stage)
            kept.add(rule.__name__)
        except AssertionError:
            pass  # an assertion of the rule's own; any other error is one of the fake
        except pytest.fail.Exception as failure:
            if "DID NOT RAISE" not in str(failure):
                raise  # such as a timeout
        finally:
            stage.clear()
    assert kept == KEPT
