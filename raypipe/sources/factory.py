"""Makes the source that a URL names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from raypipe.contracts import Source
from raypipe.errors import Kind, RaypipeError
from raypipe.sources.sqlite.source import SqliteSource


class Scheme(Enum):
    """First part of a source's URL."""

    SQLITE = "sqlite"


_FACTORIES: dict[Scheme, Callable[[str, str, Sequence[str]], Source]] = {Scheme.SQLITE: SqliteSource}


def open_source(name: str, url: str, tables: Sequence[str]) -> Source:
    """Makes a source object; connects to nothing yet.

    Args:
        name: Of the instance, from the pipeline file.
        url: ``sqlite:///path``; an absolute path therefore has four slashes.
        tables: To capture, spelled as the database spells them.

    Raises:
        RaypipeError: the URL names no known kind of database.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    known = [each.value for each in Scheme]
    if scheme not in known:
        raise RaypipeError(
            f"Source {name!r} has a URL of scheme {scheme!r}, which is no known kind of database.",
            kind=Kind.PIPELINE_FILE,
            remedy=f"Known: {', '.join(known)}, as in sqlite:///shop.db.",
        )
    return _FACTORIES[Scheme(scheme)](name, url, tables)
