"""Where a database is and how it is read, as a source's URL says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from raypipe.errors import Kind, RaypipeError

CONNECT_TIMEOUT_S = 10.0
# The server's own default, 64 MB, has it write every transaction of some hundred thousand rows to disk before it sends
# the first row of it; measured with a million rows of 150 bytes, 1 GB let readers finish 1.3 times as fast.
DECODING_MEMORY = "256MB"
# Each is a process of the server and a core of it while tables load.
COPY_CONNECTIONS = 4
MOST_COPY_CONNECTIONS = 32
_OPTIONS = frozenset(
    {
        "slot",
        "publication",
        "text_columns",
        "streaming",
        "failover",
        "event_triggers",
        "copy_connections",
        "decoding_memory",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "connect_timeout",
    }
)
_SSL_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
_OPTION_NAMES = ", ".join(sorted(_OPTIONS))
_MEMORY = re.compile(r"[1-9][0-9]{0,6}(kB|MB|GB)")
_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a database is and how it is read, as its URL says.

    Attributes:
        host: Name, address, or the folder of a Unix socket.
        port: Of the server.
        user: To connect as.
        password: Empty if there is none.
        database: Its name.
        slot: Replication slot that keeps our place.
        publication: That names the captured tables.
        text_columns: To be carried as text whatever their type, as ``table.column``.
        streaming: Have large transactions sent while they are in progress; they wait on our disk for their commit.
        failover: Ask the server (17 and later) to keep the slot on its standbys too.
        event_triggers: Put event triggers into the database, where the user may, that tell of altered tables.
        decoding_memory: How much of a transaction the server keeps in memory for us before it writes it to its disk
            (``logical_decoding_work_mem``).
        copy_connections: Tables that are loaded side by side, at most.
        sslmode: As libpq has it.
        sslrootcert: File with the certificates to trust.
        sslcert: File with our certificate.
        sslkey: File with its key.
        connect_timeout_s: For connecting.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    slot: str
    publication: str
    text_columns: tuple[str, ...] = ()
    streaming: bool = False
    failover: bool = False
    event_triggers: bool = True
    decoding_memory: str = DECODING_MEMORY
    copy_connections: int = COPY_CONNECTIONS
    sslmode: str = "prefer"
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""
    connect_timeout_s: float = CONNECT_TIMEOUT_S

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"


def parse_address(instance: str, url: str, pipeline: str = "") -> Address:
    """Reads ``postgresql://user:password@host:port/database?option=value``.

    Slot and publication are named after pipeline and instance unless the URL names them.

    Raises:
        RaypipeError: what is missing, or no known option.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError as error:
        raise _bad_url(instance, "its port is no number") from error
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - _OPTIONS - {"host"})
    if unknown:
        raise _bad_url(instance, f"it has no option {unknown[0]}", f"Options: {_OPTION_NAMES}.")
    user, database = unquote(parts.username or ""), unquote(parts.path.lstrip("/"))
    if not user or not database:
        raise _bad_url(instance, "it names no user" if not user else "it names no database")
    mode = options.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise _bad_url(instance, f"sslmode cannot be {mode}", f"Modes: {', '.join(_SSL_MODES)}.")
    slot = options.get("slot", "_".join(filter(None, ("raypipe", pipeline, instance))).lower()[:63])
    if not _SLOT_NAME.fullmatch(slot):
        raise _bad_url(instance, "its slot is no name that PostgreSQL allows", "Use a-z, 0-9 and _, 63 at most.")
    memory = options.get("decoding_memory", DECODING_MEMORY)
    if not _MEMORY.fullmatch(memory):
        raise _bad_url(instance, "decoding_memory is no size", "Write it as PostgreSQL does: 64MB, 1GB.")
    return Address(
        host=options.get("host") or unquote(parts.hostname or "localhost"),
        port=port,
        user=user,
        password=unquote(parts.password or ""),
        database=database,
        slot=slot,
        publication=options.get("publication", slot),
        text_columns=tuple(filter(None, (name.strip() for name in options.get("text_columns", "").split(",")))),
        streaming=_is_on(options.get("streaming")),
        failover=_is_on(options.get("failover")),
        event_triggers=_is_on(options.get("event_triggers", "on")),
        decoding_memory=memory,
        copy_connections=_connections(instance, options.get("copy_connections")),
        sslmode=mode,
        sslrootcert=options.get("sslrootcert", ""),
        sslcert=options.get("sslcert", ""),
        sslkey=options.get("sslkey", ""),
        connect_timeout_s=_seconds(instance, options.get("connect_timeout")),
    )


def _is_on(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true", "yes", "on")


def _connections(instance: str, text: str | None) -> int:
    if text is None:
        return COPY_CONNECTIONS
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_COPY_CONNECTIONS:
        raise _bad_url(instance, "copy_connections is no number of connections", f"1 to {MOST_COPY_CONNECTIONS}.")
    return int(text)


def _seconds(instance: str, text: str | None) -> float:
    try:
        return CONNECT_TIMEOUT_S if text is None else max(0.1, float(text))
    except ValueError as error:
        raise _bad_url(instance, "connect_timeout is no number of seconds") from error


def _bad_url(instance: str, why: str, remedy: str = "") -> RaypipeError:
    return RaypipeError(
        f"The URL of source {instance!r} cannot be used: {why}.",
        kind=Kind.PIPELINE_FILE,
        remedy=remedy or "Write postgresql://user:${env:PASSWORD}@host:5432/database.",
    )
