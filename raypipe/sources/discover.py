"""What a database has to capture: for who writes a first pipeline file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FoundTable:
    """A table of the database: its name, its columns and its primary key, as the database calls them.

    Attributes:
        name: As a pipeline file writes it.
        columns: In order.
        key: In key order; empty if it has none.
        refused: Why its changes cannot be captured; empty if they can.
        has_schema: A dot in the name parts a schema from the table.
    """

    name: str
    columns: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    refused: str = ""
    has_schema: bool = False

    @property
    def local(self) -> str:
        """Its name without that of its schema: what it is called in SQL, behind the source's name."""
        return self.name.rpartition(".")[2] if self.has_schema else self.name


def discover(url: str) -> list[FoundTable]:
    """The tables of a database.

    Args:
        url: As ``open_source`` takes it.

    Raises:
        Unavailable: it cannot be read.
        Corrupt: it is no sound database.
    """
    if url.startswith("postgresql"):
        from raypipe.sources.postgres.discover import tables_of
    else:
        from raypipe.sources.sqlite.discover import tables_of
    return tables_of(url)
