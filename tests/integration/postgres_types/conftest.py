"""Real servers, and a database of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from decoder_lab import Lab
from postgres_database import Database


@pytest.fixture(params=["postgres18", "postgres16", "postgres15"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    database = Database(request.getfixturevalue(request.param).url)
    lab = Lab(database)
    yield lab
    lab.close()
    database.close()
