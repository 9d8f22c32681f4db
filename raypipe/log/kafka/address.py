"""What a Kafka URL says: servers, security, and how topics and messages are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from raypipe.codec import Compression
from raypipe.errors import Kind, RaypipeError
from raypipe.model import TableName

EXAMPLE = "kafka://broker1:9092,broker2:9092?partitions=4&replication_factor=3"

# First part of the URL to librdkafka's security.protocol.
_PROTOCOLS = {
    "kafka": "plaintext",
    "kafka+ssl": "ssl",
    "kafka+sasl": "sasl_plaintext",
    "kafka+sasl_ssl": "sasl_ssl",
}
_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")
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
        compression: Of Arrow payloads.
        transaction_timeout_ms: After so long the broker gives up a transaction whose writer fell silent.
    """

    servers: str
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    partitions: int = 1
    replication_factor: int | None = None
    debezium: frozenset[str] = frozenset()
    compression: Compression = Compression.LZ4
    transaction_timeout_ms: int = 60_000

    def __str__(self) -> str:
        return f"kafka://{self.servers}"

    def encodes_as_json(self, table: TableName) -> bool:
        """Whether a table is written as Debezium's JSON."""
        return not self.debezium.isdisjoint(_spellings(table))

    def require_tables(self, tables: Collection[TableName]) -> None:
        """Checks that the tables chosen for an encoding are the pipeline's.

        Raises:
            RaypipeError: one is not; of kind ``pipeline_file``.
        """
        known = {spelling for table in tables for spelling in _spellings(table)}
        for name in sorted(self.debezium - known):
            there = ", ".join(sorted(str(table) for table in tables))
            raise _mistake(
                f"The option 'debezium' of the log's URL names {name}, which is no table here.", f"There are: {there}."
            )


def parse_address(url: str) -> KafkaAddress:
    """Reads a URL whose secrets are filled in.

    Raises:
        RaypipeError: with one sentence for the first mistake, which shows no secret; of kind ``pipeline_file``.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _PROTOCOLS:
        raise _mistake(f"The scheme {scheme!r} is no way to connect to Kafka.", f"Write one of {_words(_PROTOCOLS)}.")
    place, _, query = rest.partition("?")
    user, at, servers = place.rpartition("@")
    servers = servers.rstrip("/")
    if "/" in servers:
        raise _mistake("A Kafka log's URL has a path; topics are named after the pipeline.", "Leave the path out.")
    options = _options(query)
    security = _security(scheme, user if at else "", options)
    made = {name: read(options.pop(name)) for name, read in _READERS.items() if name in options}
    if options:
        raise _mistake(
            f"A Kafka log has no option {next(iter(options))!r}.",
            f"It has: {_words([*_READERS, *_FILES, 'mechanism'])}.",
        )
    return KafkaAddress(servers=_servers(servers), security=security, **made)  # type: ignore[arg-type]


def _servers(text: str) -> str:
    servers = [each.strip() for each in text.split(",") if each.strip()]
    if not servers:
        raise _mistake("A Kafka log's URL names no broker.", f"Write for instance {EXAMPLE}")
    for server in servers:
        host, colon, port = server.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise _mistake(f"A Kafka broker is host:port, and {server!r} is not.", f"Write for instance {EXAMPLE}")
    return ",".join(servers)


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise _mistake("The part of the log's URL after ? is not name=value&name=value.", f"As in {EXAMPLE}") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise _mistake("An option of the log's URL is given twice.", "Give each once.")
    return options


def _security(scheme: str, user: str, options: dict[str, str]) -> dict[str, str]:
    security = {"security.protocol": _PROTOCOLS[scheme]}
    if "sasl" in scheme:
        name, colon, password = user.partition(":")
        if not name or not colon or not password:
            raise _mistake(
                f"{scheme} needs a user and a password.",
                f"Write {scheme}://USER:${{env:PASSWORD}}@host:port?mechanism=SCRAM-SHA-512",
            )
        mechanism = options.pop("mechanism", "SCRAM-SHA-512").upper()
        if mechanism not in _MECHANISMS:
            raise _mistake(f"The mechanism {mechanism!r} is not known.", f"Known: {_words(_MECHANISMS)}.")
        security |= {
            "sasl.mechanism": mechanism,
            "sasl.username": unquote(name),
            "sasl.password": unquote(password),
        }
    elif user:
        raise _mistake(
            f"{scheme} sends no password, but the URL holds a user.", "Write kafka+sasl_ssl:// (or kafka+sasl://)."
        )
    elif "mechanism" in options:
        raise _mistake("Only kafka+sasl:// and kafka+sasl_ssl:// have a mechanism.", "Leave it out.")
    for name, setting in _FILES.items():
        if name in options:
            if "ssl" not in scheme.replace("sasl", ""):
                raise _mistake(f"Only kafka+ssl:// and kafka+sasl_ssl:// have the option {name!r}.", "Leave it out.")
            path = options.pop(name)
            if not os.path.isfile(path):
                raise _mistake(f"The file of the option {name!r} does not exist: {path}.", "Give its absolute path.")
            security[setting] = path
    return security


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


def _tables(text: str) -> frozenset[str]:
    tables = [each.strip() for each in text.split(",")]
    for table in tables:
        if table.count(".") not in (1, 2):
            raise _mistake(f"The option 'debezium' names tables as source.table, and {table!r} is not one.", "")
    return frozenset(tables)


_FILES = {
    "ca": "ssl.ca.location",
    "certificate": "ssl.certificate.location",
    "key": "ssl.key.location",
}
_READERS: dict[str, Callable[[str], object]] = {
    "partitions": _number("partitions", 1, MOST_PARTITIONS),
    "replication_factor": _number("replication_factor", 1, 32767),
    "debezium": _tables,
    "compression": _compression,
    # A broker's own bound is 15 minutes unless its transaction.max.timeout.ms says otherwise.
    "transaction_timeout_ms": _number("transaction_timeout_ms", 1_000, 900_000),
}


def _spellings(table: TableName) -> set[str]:
    return {str(table), f"{table.instance}.{table.schema}.{table.table}"}


def _words(names: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    return ", ".join(names)


def _mistake(sentence: str, remedy: str) -> RaypipeError:
    return RaypipeError(sentence, kind=Kind.PIPELINE_FILE, remedy=remedy)
