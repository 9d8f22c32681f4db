"""A database on a real server, and readings of it that are closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from postgres_database import Database
from reading import Reading


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that finds nothing means that there is nothing, however slow the server is to tell."""
    monkeypatch.setattr("raypipe.sources.postgres.reader.PATIENCE_S", 60.0)


@pytest.fixture(params=["postgres18", "postgres15"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.getfixturevalue(request.param).url)
    yield database
    database.close()


@pytest.fixture
def read(request: pytest.FixtureRequest) -> Iterator[Callable[..., Reading]]:
    """Makes a reading of tables of ``database``, or of a database that is given."""
    readings: list[Reading] = []

    def make(*tables: str, of: Database | None = None, **options: str) -> Reading:
        readings.append(Reading(of or request.getfixturevalue("database"), tables, **options))
        return readings[-1]

    yield make
    for reading in readings:
        reading.close()
