"""Makes the source that a URL names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from raypipe.contracts import Source
from raypipe.errors import Kind, MissingExtra, RaypipeError
from raypipe.plan.model import Plan
from raypipe.sources.sqlite.source import SqliteSource


class Scheme(Enum):
    """First part of a source's URL."""

    SQLITE = "sqlite"
    POSTGRES = "postgresql"
    KAFKA = "kafka"


def _sqlite(pipeline: str, name: str, url: str, tables: Sequence[str]) -> Source:
    del pipeline  # the capture is the database's own: whoever reads it, it is the same
    return SqliteSource(name, url, tables)


def _postgres(pipeline: str, name: str, url: str, tables: Sequence[str]) -> Source:
    from raypipe.sources.postgres import PostgresSource

    return PostgresSource(name, url, tables, pipeline)


def _debezium(pipeline: str, name: str, url: str, tables: Sequence[str]) -> Source:
    del pipeline  # nothing is kept for a reader: it knows its offsets itself
    try:
        from raypipe.sources.debezium import DebeziumSource
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise MissingExtra.of("kafka", "A source over Kafka") from None
    return DebeziumSource(name, url, tables)


_FACTORIES: dict[Scheme, Callable[[str, str, str, Sequence[str]], Source]] = {
    Scheme.SQLITE: _sqlite,
    Scheme.POSTGRES: _postgres,
    Scheme.KAFKA: _debezium,
}


def open_instance(plan: Plan, name: str) -> Source:
    """Makes the source object of one of a plan's instances; see ``open_source``."""
    instance = next(each for each in plan.instances if each.name == name)
    return open_source(name, instance.url, instance.chosen, pipeline=plan.pipeline)


def open_source(name: str, url: str, tables: Sequence[str], *, pipeline: str = "") -> Source:
    """Makes a source object; connects to nothing yet.

    Args:
        name: Of the instance, from the pipeline file.
        url: ``sqlite:///path`` (an absolute path therefore has four slashes), or
            ``postgresql://user:password@host:port/database``, or ``kafka://host:port?prefix=…`` (also ``kafka+ssl``,
            ``kafka+sasl`` and ``kafka+sasl_ssl``) for topics that Debezium writes.
        tables: To capture, spelled as the database spells them.
        pipeline: Whose source it is: names what a server keeps for one reader alone, such as a replication slot.

    Raises:
        RaypipeError: the URL names no known kind of database.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    known = [each.value for each in Scheme]
    if scheme not in known:
        raise RaypipeError(
            f"Source {name!r} has a URL of scheme {scheme!r}, which is no known kind of database.",
            kind=Kind.PIPELINE_FILE,
            remedy=f"Known: {', '.join(known)}, as in sqlite:///shop.db, postgresql://user@host:5432/shop or kafka://host:9092?prefix=cdc.public",
        )
    return _FACTORIES[Scheme(scheme)](pipeline, name, url, tables)
