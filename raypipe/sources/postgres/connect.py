"""Connections to a PostgreSQL server: what a URL says, sessions for statements, and what the server's errors mean.

The library pg8000 connects, encrypts and authenticates (SCRAM, certificates); it keeps its socket in Python, so the
stream of changes and the copies of tables are read from that socket by code of our own.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from raypipe.errors import Kind, MissingExtra, RaypipeError, SchemaMismatch, Unavailable
from raypipe.sources.postgres.types import SETTINGS

if TYPE_CHECKING:
    from pg8000.core import CoreConnection

CONNECT_TIMEOUT_S = 10.0
# One statement on the catalog takes milliseconds; a server that is silent for this long is reported as away.
ANSWER_TIMEOUT_S = 60.0
# A server notices that a reader is gone after this; a reader that only waits for its log is kept for as long.
SENDER_TIMEOUT = "5min"

# Besides what gives values the same text everywhere.
_OWN_SETTINGS: Mapping[str, str] = {
    "synchronous_commit": "local",  # a watermark must reach the disk at once, and need not reach a standby
    "row_security": "off",  # rows hidden from us are then an error, never silently left out
    "lock_timeout": "5s",  # behind somebody's ALTER TABLE; the next poll tries again
}

_OPTIONS = frozenset(
    {"slot", "publication", "failover", "sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout"}
)
_SSL_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
_OPTION_NAMES = ", ".join(sorted(_OPTIONS))
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
        failover: Ask the server (17 and later) to keep the slot on its standbys too.
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
    failover: bool = False
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
    return Address(
        host=options.get("host") or unquote(parts.hostname or "localhost"),
        port=port,
        user=user,
        password=unquote(parts.password or ""),
        database=database,
        slot=slot,
        publication=options.get("publication", slot),
        failover=options.get("failover", "false").lower() in ("1", "true", "yes", "on"),
        sslmode=mode,
        sslrootcert=options.get("sslrootcert", ""),
        sslcert=options.get("sslcert", ""),
        sslkey=options.get("sslkey", ""),
        connect_timeout_s=_seconds(instance, options.get("connect_timeout")),
    )


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


def quoted(name: str) -> str:
    """A name as SQL, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Text as a SQL literal, whatever ``standard_conforming_strings`` says."""
    escaped = text.replace("'", "''")
    return f"E'{escaped.replace(chr(92), chr(92) * 2)}'" if "\\" in escaped else f"'{escaped}'"


class Session:
    """One connection for statements, one at a time.

    Args:
        address: Of the database.
        purpose: Part of the name that the server shows for the connection.
        replication: Speak the replication protocol; statements still work.
        answer_timeout_s: How long one statement may be silent.
    """

    def __init__(
        self,
        address: Address,
        purpose: str,
        *,
        replication: bool = False,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.address = address
        self._connection = _connect(address, purpose, replication)
        self._connection._usock.settimeout(answer_timeout_s)
        self.answer_timeout_s = answer_timeout_s

    def rows(self, sql: str) -> list[list[Any]]:
        """Runs a statement; returns its rows.

        Raises:
            Unavailable: the server is away or busy.
            SchemaMismatch: it refused the statement.
        """
        with answers(self.address):
            return self._connection.execute_simple(sql).rows or []

    def one(self, sql: str) -> list[Any]:
        """The only row of a statement's result."""
        (row,) = self.rows(sql)
        return row

    def with_texts(self, sql: str, texts: Sequence[str | None]) -> list[list[Any]]:
        """Runs a statement with parameters ``$1`` and so on, each a text that the statement casts."""
        with answers(self.address):
            return self._connection.execute_unnamed(sql, tuple(texts)).rows or []

    def run(self, sql: str) -> None:
        """Runs a statement without a result."""
        self.rows(sql)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """One read-only transaction that sees the database at one moment."""
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            with suppress(RaypipeError):
                self.run("ROLLBACK")

    def begin_copy(self, sql: str) -> tuple[socket.socket, bytes]:
        """Sends a statement that answers with a stream (COPY, START_REPLICATION).

        Returns:
            The socket, and the bytes of the stream already read from it.
        """
        with answers(self.address):
            sock = self._connection._usock
            sock.setblocking(True)
            sock.settimeout(self.answer_timeout_s)
            body = sql.encode() + b"\0"
            sock.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
            received = b""
            while True:
                received += _received(sock)
                while len(received) >= 5:
                    size = 1 + struct.unpack_from("!i", received, 1)[0]
                    if len(received) < size:
                        break
                    kind, payload, received = received[:1], received[5:size], received[size:]
                    if kind in (b"H", b"W"):
                        return sock, received
                    if kind == b"E":
                        self._read_ready(sock, received)
                        raise _server_error(payload)

    def _read_ready(self, sock: socket.socket, received: bytes) -> None:
        """Reads on until the server waits for the next statement, so that the session stays usable."""
        with suppress(OSError):
            while not received.endswith(b"Z\0\0\0\5I") and b"Z\0\0\0\5" not in received:
                received += _received(sock)

    def end_copy(self) -> None:
        """After a stream was read to its end: the next statement may follow."""
        sock = self._connection._usock
        sock.setblocking(True)
        sock.settimeout(self.answer_timeout_s)

    @property
    def version(self) -> int:
        """Major version of the server."""
        return int(re.match(r"\d+", self._connection.parameter_statuses["server_version"])[0])  # type: ignore[index]

    def close(self) -> None:
        """Ends the connection; idempotent."""
        with suppress(Exception):  # a socket in the middle of a stream takes no farewell
            self._connection._usock.settimeout(1.0)
            self._connection.close()
        with suppress(Exception):
            self._connection._usock.close()


def _received(sock: socket.socket) -> bytes:
    part = sock.recv(1 << 16)
    if not part:
        raise ConnectionResetError("the server closed the connection")
    return part


def _server_error(payload: bytes) -> Exception:
    from pg8000.exceptions import DatabaseError

    parts = (part for part in payload.split(b"\0") if part)
    error: Exception = DatabaseError({part[:1].decode(): part[1:].decode(errors="replace") for part in parts})
    return error


def _connect(address: Address, purpose: str, replication: bool) -> CoreConnection:
    try:
        from pg8000.core import CoreConnection
        from pg8000.exceptions import InterfaceError
    except ImportError:
        raise MissingExtra.of("postgres", "Reading PostgreSQL") from None

    settings = {**SETTINGS, **_OWN_SETTINGS}
    if replication:
        settings["wal_sender_timeout"] = SENDER_TIMEOUT
    way = {"unix_sock": f"{address.host}/.s.PGSQL.{address.port}"} if address.host.startswith("/") else {}

    def connected(context: ssl.SSLContext | bool) -> CoreConnection:
        return CoreConnection(
            address.user,
            host=address.host,
            port=address.port,
            database=address.database,
            password=address.password or None,
            ssl_context=context,
            timeout=address.connect_timeout_s,
            application_name=f"raypipe {purpose} {address.slot}"[:63],
            replication="database" if replication else None,
            startup_params=settings,
            **way,
        )

    with answers(address):
        if way or address.sslmode == "disable":
            return connected(False)
        try:
            return connected(_ssl_context(address))
        except InterfaceError as error:
            if address.sslmode != "prefer" or _REFUSES not in str(error):
                raise
            return connected(False)


def _ssl_context(address: Address) -> ssl.SSLContext:
    """How the connection is encrypted, and what of the server's certificate is checked, by libpq's rules."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = address.sslmode == "verify-full"
    checks = address.sslmode.startswith("verify") or bool(address.sslrootcert)
    context.verify_mode = ssl.CERT_REQUIRED if checks else ssl.CERT_NONE
    try:
        if address.sslrootcert:
            context.load_verify_locations(address.sslrootcert)
        elif checks:
            context.load_default_certs()
        if address.sslcert:
            context.load_cert_chain(address.sslcert, address.sslkey or None)
    except (OSError, ssl.SSLError) as error:
        raise RaypipeError(
            f"A certificate or key for {address} cannot be read.",
            kind=Kind.PIPELINE_FILE,
            remedy="Check sslrootcert, sslcert and sslkey in the source's URL.",
            cause=error,
        ) from error
    return context


# What pg8000 says of a server without TLS.
_REFUSES = "Server refuses SSL"
_PRIVILEGES = "See 'Privileges' in docs/how-to/source-postgres.md for the exact GRANTs."


@contextmanager
def answers(address: Address) -> Iterator[None]:
    """Turns errors of the server and of the way to it into raypipe's.

    Raises:
        Unavailable: away, starting, full, locked; a retry may work.
        RaypipeError: of kind PIPELINE_FILE where the URL is wrong.
        SchemaMismatch: a statement was refused.
    """
    from pg8000.exceptions import DatabaseError, InterfaceError

    try:
        yield
    except DatabaseError as error:
        fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        raise meaning(address, str(fields.get("C", "")), str(fields.get("M", "")), error) from error
    except ssl.SSLError as error:
        raise RaypipeError(
            f"No encrypted connection to {address} could be made.",
            kind=Kind.PIPELINE_FILE,
            remedy="Check sslmode and sslrootcert in the source's URL.",
            cause=error,
        ) from error
    except InterfaceError as error:
        if _REFUSES in str(error):
            raise RaypipeError(
                f"The server {address} offers no encryption.",
                kind=Kind.PIPELINE_FILE,
                remedy="Turn ssl on in the server, or write sslmode=prefer into the source's URL.",
            ) from error
        if "authentication" in str(error).lower():
            raise _not_let_in(address, error) from error
        raise Unavailable(f"The PostgreSQL server {address} does not answer.", cause=error) from error
    except (OSError, struct.error, AttributeError) as error:
        # pg8000 reads lengths from a connection that was cut, and uses its socket after closing it.
        raise Unavailable(f"The connection to PostgreSQL {address} broke.", cause=error) from error


def meaning(address: Address, sqlstate: str, message: str, cause: BaseException | None = None) -> RaypipeError:
    """The error for a code of the server (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
    if sqlstate.startswith("28"):
        return _not_let_in(address, cause)
    if sqlstate == "3D000":
        return RaypipeError(
            f"There is no database {address.database} on {address.host}:{address.port}.",
            kind=Kind.PIPELINE_FILE,
            remedy="Check the source's URL.",
        )
    if sqlstate == "42501":
        return RaypipeError(
            f"User {address.user} may not do what raypipe needs on {address}: {message}.",
            kind=Kind.PIPELINE_FILE,
            remedy=_PRIVILEGES,
        )
    if sqlstate[:2] in ("08", "53", "57", "58", "55", "40", "XX") or not sqlstate:
        return Unavailable(f"PostgreSQL {address} cannot serve now: {message}.", sqlstate=sqlstate)
    shown = "" if sqlstate[:2] in ("22", "23") else f": {message}"  # these messages may hold values
    return SchemaMismatch(
        f"PostgreSQL {address} refused a statement of raypipe{shown}.",
        remedy=f"Its code is {sqlstate}.",
        sqlstate=sqlstate,
    )


def _not_let_in(address: Address, cause: BaseException | None) -> RaypipeError:
    return RaypipeError(
        f"PostgreSQL {address} does not let user {address.user} in.",
        kind=Kind.PIPELINE_FILE,
        remedy="Check user and password in the source's URL, and pg_hba.conf on the server.",
        cause=cause,
    )
