"""Connections to a PostgreSQL server: what a URL says, sessions for statements, and what the server's errors mean.

The library pg8000 connects, encrypts and authenticates (SCRAM, certificates); it keeps its socket in Python, so the
stream of changes and the copies of tables are read from that socket by code of our own.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from raypipe.errors import Kind, MissingExtra, RaypipeError, SchemaMismatch, Unavailable
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.tls import TlsSocket
from raypipe.sources.postgres.types import SETTINGS

if TYPE_CHECKING:
    from pg8000.core import CoreConnection

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
        notice_dead_peers(self._connection._usock)
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
    def patient(self, timeout_s: float) -> Iterator[None]:
        """Inside, one statement may be silent for this long."""
        self._connection._usock.settimeout(timeout_s)
        try:
            yield
        finally:
            self._connection._usock.settimeout(self.answer_timeout_s)

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
        sock = self._connection._usock
        if sock is None:
            return
        with suppress(Exception):  # a socket in the middle of a stream takes no farewell
            sock.settimeout(1.0)
            self._connection.close()
        _shut(sock)


def notice_dead_peers(sock: socket.socket) -> None:
    """Has the kernel end a connection whose other side is gone: after a minute, not after hours."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for option, value in (
        (socket.TCP_KEEPIDLE, 20),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, 60_000),
    ):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


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
    except ImportError:
        raise MissingExtra.of("postgres", "Reading PostgreSQL") from None

    settings = {**SETTINGS, **_OWN_SETTINGS}
    if replication:
        settings["wal_sender_timeout"] = SENDER_TIMEOUT
        settings["logical_decoding_work_mem"] = address.decoding_memory
    with answers(address):
        sock = _socket(address)
        try:
            return CoreConnection(
                address.user,
                sock=sock,
                database=address.database,
                password=address.password or None,
                ssl_context=False,
                application_name=f"raypipe {purpose} {address.slot}"[:63],
                replication="database" if replication else None,
                startup_params=settings,
            )
        except BaseException:
            _shut(sock)
            raise


def _shut(sock: socket.socket) -> None:
    """Closes a socket for good: ``close`` alone waits for the file object that the library made of it."""
    handle = sock.detach()
    if handle >= 0:
        os.close(handle)


def _socket(address: Address) -> socket.socket:
    """Connected, and encrypted if that is wanted (https://www.postgresql.org/docs/current/protocol-flow.html)."""
    if address.host.startswith("/"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(address.connect_timeout_s)
    else:
        try:
            sock = socket.create_connection((address.host, address.port), address.connect_timeout_s)
        except OSError as error:
            raise Unavailable(f"The PostgreSQL server {address} does not answer.", cause=error) from error
    try:
        if sock.family == socket.AF_UNIX:
            sock.connect(f"{address.host}/.s.PGSQL.{address.port}")
            return sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if address.sslmode == "disable":
            return sock
        sock.sendall(struct.pack("!ii", 8, _SSL_REQUEST))
        answer = sock.recv(1)
        if answer == b"S":
            return TlsSocket(sock, _ssl_context(address), address.host)
        if not answer:
            raise ConnectionResetError("the server closed the connection")
        if address.sslmode != "prefer":
            raise RaypipeError(
                f"The server {address} offers no encryption.",
                kind=Kind.PIPELINE_FILE,
                remedy="Turn ssl on in the server, or write sslmode=prefer into the source's URL.",
            )
    except BaseException:
        sock.close()
        raise
    return sock


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


_SSL_REQUEST = 80877103
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
    except ssl.SSLCertVerificationError as error:
        raise RaypipeError(
            f"No encrypted connection to {address} could be made.",
            kind=Kind.PIPELINE_FILE,
            remedy="Check sslmode and sslrootcert in the source's URL.",
            cause=error,
        ) from error
    except InterfaceError as error:
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
