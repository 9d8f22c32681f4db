"""What a Kafka URL says: servers, security, and how topics and messages are made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from raypipe.codec import Compression
from raypipe.errors import Kind, RaypipeError
from raypipe.kafka import parse_servers
from raypipe.model import TableName

EXAMPLE = "kafka://broker1:9092,broker2:9092?partitions=4&replication_factor=3"

_COMPRESSIONS = {"lz4": Compression.LZ4, "zstd": Compression.ZSTD, "none": Compression.NONE}

# More partitions than this for one table cost more in messages than they gain in parallel reading.
MOST_PARTITIONS = 256


@dataclass(frozen=True, kw_only=True)
class KafkaAddress:
    """A Kafka URL, understood. ``str`` shows the servers only: the settings may hold a password.

    Attributes:
        servers: ``host:port`` of brokers to begin with, separated by commas.
        security: librdkafka's settings for TLS and SASL.
        partitions: Of a topic that is made for a table.
        replication_factor: Of every topic that is made; None leaves it to the broker's default.
        debezium: Tables (``instance.table`` or ``instance.schema.table``) written as Debezium's JSON.
        keep: Tables whose topics are kept whole: others read them, so what the sinks have is not deleted.
        compression: Of Arrow payloads.
        transaction_timeout_ms: After so long the broker gives up a transaction whose writer fell silent.
    """

    servers: str
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    partitions: int = 1
    replication_factor: int | None = None
    debezium: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    compression: Compression = Compression.LZ4
    transaction_timeout_ms: int = 60_000

    def __str__(self) -> str:
        return f"kafka://{self.servers}"

    def encodes_as_json(self, table: TableName) -> bool:
        """Whether a table is written as Debezium's JSON."""
        return not self.debezium.isdisjoint(_spellings(table))

    def keeps(self, table: TableName) -> bool:
        """Whether a table's topic is kept whole."""
        return not self.keep.isdisjoint(_spellings(table))

    def require_tables(self, tables: Collection[TableName]) -> None:
        """Checks that the tables chosen for an encoding are the pipeline's.

        Raises:
            RaypipeError: one is not; of kind ``pipeline_file``.
        """
        known = {spelling for table in tables for spelling in _spellings(table)}
        for option, names in (("debezium", self.debezium), ("keep", self.keep)):
            for name in sorted(names - known):
                there = ", ".join(sorted(str(table) for table in tables))
                raise _mistake(
                    f"The option {option!r} of the log's URL names {name}, which is no table here.",
                    f"There are: {there}.",
                )


def parse_address(url: str) -> KafkaAddress:
    """Reads a URL whose secrets are filled in.

    Raises:
        RaypipeError: with one sentence for the first mistake, which shows no secret; of kind ``pipeline_file``.
    """
    kafka = parse_servers(url, "log", list(_READERS), EXAMPLE)
    made = {name: read(kafka.options[name]) for name, read in _READERS.items() if name in kafka.options}
    return KafkaAddress(servers=kafka.servers, security=kafka.security, **made)  # type: ignore[arg-type]


def _number(name: str, low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise _mistake(f"The option {name!r} is a whole number from {low} to {high}, not {text!r}.", "")
        return int(text)

    return read


def _compression(text: str) -> Compression:
    if text not in _COMPRESSIONS:
        raise _mistake(f"The compression {text!r} is not known.", f"Known: {_words(_COMPRESSIONS)}.")
    return _COMPRESSIONS[text]


def _tables(name: str) -> Callable[[str], frozenset[str]]:
    def read(text: str) -> frozenset[str]:
        tables = [each.strip() for each in text.split(",")]
        for table in tables:
            if table.count(".") not in (1, 2):
                raise _mistake(f"The option {name!r} names tables as source.table, and {table!r} is not one.", "")
        return frozenset(tables)

    return read


_READERS: dict[str, Callable[[str], object]] = {
    "partitions": _number("partitions", 1, MOST_PARTITIONS),
    "replication_factor": _number("replication_factor", 1, 32767),
    "debezium": _tables("debezium"),
    "keep": _tables("keep"),
    "compression": _compression,
    # A broker's own bound is 15 minutes unless its transaction.max.timeout.ms says otherwise.
    "transaction_timeout_ms": _number("transaction_timeout_ms", 1_000, 900_000),
}


def _spellings(table: TableName) -> set[str]:
    return {str(table), f"{table.instance}.{table.schema}.{table.table}"}


def _words(names: Mapping[str, object]) -> str:
    return ", ".join(names)


def _mistake(sentence: str, remedy: str) -> RaypipeError:
    return RaypipeError(sentence, kind=Kind.PIPELINE_FILE, remedy=remedy)
