"""What every Kafka URL says in the same way: brokers, TLS, user and password; the options are left to its reader."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from raypipe.errors import Kind, RaypipeError

# First part of the URL to librdkafka's security.protocol.
_PROTOCOLS = {
    "kafka": "plaintext",
    "kafka+ssl": "ssl",
    "kafka+sasl": "sasl_plaintext",
    "kafka+sasl_ssl": "sasl_ssl",
}
_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")
_FILES = {
    "ca": "ssl.ca.location",
    "certificate": "ssl.certificate.location",
    "key": "ssl.key.location",
}


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Where a Kafka is and how to connect. ``str`` shows the servers only: the settings may hold a password.

    Attributes:
        servers: ``host:port`` of brokers to begin with, separated by commas.
        security: librdkafka's settings for TLS and SASL.
        options: What else the URL says, unread.
    """

    servers: str
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"kafka://{self.servers}"


def parse_servers(url: str, use: str, known: Sequence[str], example: str) -> Servers:
    """Reads a URL whose secrets are filled in.

    Args:
        url: ``kafka://…``, ``kafka+ssl://…``, ``kafka+sasl://…`` or ``kafka+sasl_ssl://…``.
        use: What the URL is for, in messages: log, source.
        known: Names of the options that its reader takes, besides those for security.
        example: Of a URL for that use.

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
        raise _mistake(f"The URL of a Kafka {use} has a path.", f"Leave it out, as in {example}")
    options = _options(query, use, example)
    security = _security(scheme, user if at else "", options)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise _mistake(
            f"A Kafka {use} has no option {unknown[0]!r}.", f"It has: {_words([*known, *_FILES, 'mechanism'])}."
        )
    return Servers(servers=_brokers(servers, use, example), security=security, options=options)


def _brokers(text: str, use: str, example: str) -> str:
    servers = [each.strip() for each in text.split(",") if each.strip()]
    if not servers:
        raise _mistake(f"The URL of a Kafka {use} names no broker.", f"Write for instance {example}")
    for server in servers:
        host, colon, port = server.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise _mistake(f"A Kafka broker is host:port, and {server!r} is not.", f"Write for instance {example}")
    return ",".join(servers)


def _options(query: str, use: str, example: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise _mistake(
            f"What follows ? in the URL of a Kafka {use} is not name=value&name=value.", f"As in {example}"
        ) from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise _mistake(f"An option in the URL of a Kafka {use} is given twice.", "Give each once.")
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


def _words(names: Iterable[str]) -> str:
    return ", ".join(names)


def _mistake(sentence: str, remedy: str) -> RaypipeError:
    return RaypipeError(sentence, kind=Kind.PIPELINE_FILE, remedy=remedy)
