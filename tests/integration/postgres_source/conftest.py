"""A database on a real server, and readings of it that are closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from postgres_database import Database
from reading import Reading


@pytest.fixture(params=["postgres18", "postgres15"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.getfixturevalue(request.param).url)
    yield database
    database.close()


@pytest.fixture
def read(database: Database) -> Iterator[Callable[..., Reading]]:
    readings: list[Reading] = []

    def make(*tables: str, **options: str) -> Reading:
        readings.append(Reading(database, tables, **options))
        return readings[-1]

    yield make
    for reading in readings:
        reading.close()
