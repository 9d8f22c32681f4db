"""The receiving side of COPY mode over real sockets: split messages, huge ones, ends of every kind."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from raypipe_wire_messages import message, wal

from raypipe.errors import Corrupt, LimitExceeded, Unavailable
from raypipe.sources.postgres.refusals import PostgresError
from raypipe.sources.postgres.tls import TlsSocket
from raypipe.sources.postgres.wire import CopyStream, standby_status

WAIT_S = 60.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the server's, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with ours, theirs:
        yield ours, theirs


def payloads(stream: CopyStream, count: int, max_bytes: int = 4 << 20) -> list[bytes]:
    """The next messages, copied out."""
    found: list[bytes] = []
    while len(found) < count:
        gulp = stream.gulp(WAIT_S, max_bytes)
        assert gulp is not None
        found += [
            gulp.buffer[at : at + size].tobytes() for at, size in zip(gulp.at.tolist(), gulp.size.tolist(), strict=True)
        ]
    return found


def wal_of(body: bytes) -> bytes:
    return wal(body)[5:]


def test_messages_arrive_in_order_however_they_are_split(pair, seed):
    ours, theirs = pair
    bodies = [bytes([65 + place % 26]) * (place % 50) for place in range(200)]
    data = b"".join(map(wal, bodies))
    stream = CopyStream(ours)
    found: list[bytes] = []
    for at in range(0, len(data), 1 + seed % 7):
        theirs.sendall(data[at : at + 1 + seed % 7])
        gulp = stream.gulp(0.0)
        if gulp is not None:
            found += [
                gulp.buffer[at : at + size].tobytes()
                for at, size in zip(gulp.at.tolist(), gulp.size.tolist(), strict=True)
            ]
    found += payloads(stream, len(bodies) - len(found))
    assert found == [wal_of(body) for body in bodies]


def test_what_somebody_already_read_comes_first(pair):
    ours, theirs = pair
    data = wal(b"one") + wal(b"two")
    theirs.sendall(data[10:])
    assert payloads(CopyStream(ours, leftover=data[:10]), 2) == [wal_of(b"one"), wal_of(b"two")]


def test_a_message_larger_than_the_buffer_makes_it_grow(pair):
    ours, theirs = pair
    huge = bytes(range(256)) * 40_000
    sender = threading.Thread(target=theirs.sendall, args=(wal(b"before") + wal(huge) + wal(b"after"),))
    sender.start()
    stream = CopyStream(ours, buffer_bytes=1 << 16)
    assert payloads(stream, 3) == [wal_of(b"before"), wal_of(huge), wal_of(b"after")]
    sender.join()
    theirs.sendall(wal(b"small again"))
    gulp = stream.gulp(WAIT_S)
    assert gulp is not None
    assert len(gulp.buffer) < 1 << 17


def test_a_message_longer_than_the_protocol_allows_is_refused(pair):
    ours, theirs = pair
    theirs.sendall(b"d" + struct.pack("!i", 2**31 - 1) + b"w")
    with pytest.raises(LimitExceeded, match="cannot be longer"):
        CopyStream(ours).gulp(WAIT_S)


def test_a_backlog_comes_in_large_gulps(pair):
    ours, theirs = pair
    messages = [wal(b"x" * 100)] * 20_000
    sender = threading.Thread(target=theirs.sendall, args=(b"".join(messages),))
    sender.start()
    stream = CopyStream(ours)
    gulps, received = 0, 0
    while received < len(messages):
        gulp = stream.gulp(WAIT_S, 1 << 20)
        assert gulp is not None
        assert gulp.bytes <= 8 << 20
        gulps, received = gulps + 1, received + len(gulp.at)
    assert gulps < len(messages) / 100
    sender.join()


def test_a_lone_message_is_given_out_at_once_after_a_backlog(pair):
    ours, theirs = pair
    stream = CopyStream(ours)
    theirs.sendall(wal(b"x" * 100) * 5_000)
    payloads(stream, 5_000)
    theirs.sendall(wal(b"alone"))
    assert payloads(stream, 1) == [wal_of(b"alone")]


def test_a_quiet_stream_gives_nothing_in_time(pair):
    ours, _ = pair
    assert CopyStream(ours).gulp(0.01) is None


def test_a_message_that_is_not_whole_is_kept(pair):
    ours, theirs = pair
    stream = CopyStream(ours)
    theirs.sendall(wal(b"whole") + wal(b"torn")[:-1])
    assert payloads(stream, 1) == [wal_of(b"whole")]
    assert stream.gulp(0.01) is None
    theirs.sendall(wal(b"torn")[-1:])
    assert payloads(stream, 1) == [wal_of(b"torn")]


def test_an_error_of_the_server_comes_after_the_rows_before_it(pair):
    ours, theirs = pair
    fields = b"SERROR\0VFATAL\0C57P01\0Mterminating connection\0Dsecret row\0\0"
    theirs.sendall(wal(b"row") + message(b"N", b"\0") + message(b"E", fields))
    stream = CopyStream(ours)
    assert payloads(stream, 1) == [wal_of(b"row")]
    with pytest.raises(PostgresError, match="FATAL 57P01: terminating connection") as raised:
        stream.gulp(WAIT_S)
    assert raised.value.sqlstate == "57P01"
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("rows", [0, 2])
def test_an_error_that_comes_together_with_the_end_is_no_end(pair, rows):
    """The rows that are still lacking would be taken for rows that do not exist."""
    ours, theirs = pair
    fields = b"SERROR\0VERROR\0C57014\0Mcanceling statement\0\0"
    theirs.sendall(wal(b"row") * rows + message(b"E", fields) + message(b"Z", b"I"))
    stream = CopyStream(ours)
    assert payloads(stream, rows) == [wal_of(b"row")] * rows
    with pytest.raises(PostgresError, match="57014"):
        stream.gulp(WAIT_S)


def test_a_closed_connection_is_unavailable_after_the_rows_before_it(pair):
    ours, theirs = pair
    theirs.sendall(wal(b"row") + wal(b"torn")[:-3])
    theirs.close()
    stream = CopyStream(ours)
    assert payloads(stream, 1) == [wal_of(b"row")]
    with pytest.raises(Unavailable, match="closed"):
        stream.gulp(WAIT_S)


def test_a_reset_connection_is_unavailable(pair):
    ours, theirs = pair
    stream = CopyStream(ours)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(Unavailable, match="broke"):
        stream.gulp(WAIT_S)
    with pytest.raises(Unavailable):
        stream.send(b"x")


def test_a_copy_ends_with_the_servers_readiness(pair):
    ours, theirs = pair
    rows = [wal(b"row" * 100)] * 1_000  # enough to be taken for a backlog
    theirs.sendall(b"".join(rows) + message(b"c", b"") + message(b"C", b"COPY 1\0") + message(b"Z", b"I"))
    stream = CopyStream(ours)
    assert len(payloads(stream, len(rows))) == len(rows)
    assert stream.gulp(WAIT_S) is None
    assert stream.finished
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert stream.release().getblocking()


def test_a_message_that_copy_mode_does_not_have_is_corrupt(pair):
    ours, theirs = pair
    theirs.sendall(message(b"D", b"\0\0"))
    with pytest.raises(Corrupt, match="in COPY mode"):
        CopyStream(ours).gulp(WAIT_S)


def test_a_status_is_sent_as_one_message(pair):
    ours, theirs = pair
    stream = CopyStream(ours)
    stream.send(standby_status(written_lsn=3, flushed_lsn=2, applied_lsn=1, unix_us=946_684_800_000_005))
    assert theirs.recv(100) == message(b"d", b"r" + struct.pack("!qqqqB", 3, 2, 1, 5, 0))
    stream.end()
    assert theirs.recv(100) == message(b"c", b"")


def say_goodbye(theirs: ssl.SSLSocket) -> None:
    with suppress(OSError):  # there is no answer
        theirs.unwrap()


def self_signed(folder: Path) -> ssl.SSLContext:
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server


@pytest.fixture
def tls_pair(pair, tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = pair
    server = self_signed(tmp_path)
    client = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    wrapped: list[ssl.SSLSocket] = []
    greeter = threading.Thread(target=lambda: wrapped.append(server.wrap_socket(theirs, server_side=True)))
    greeter.start()
    with TlsSocket(ours, client, "localhost") as encrypted:
        greeter.join()
        with wrapped[0]:
            yield encrypted, wrapped[0]


def test_an_encrypted_stream_is_read_the_same_way(tls_pair):
    ours, theirs = tls_pair
    bodies = [bytes([65 + place % 26]) * (place % 3_000) for place in range(3_000)]
    sender = threading.Thread(target=theirs.sendall, args=(b"".join(map(wal, bodies)),))
    sender.start()
    stream = CopyStream(ours, buffer_bytes=1 << 17)
    assert payloads(stream, len(bodies)) == [wal_of(body) for body in bodies]
    sender.join()
    stream.send(b"status")
    assert theirs.recv(100) == message(b"d", b"status")
    theirs.sendall(wal(b"alone"))
    assert payloads(stream, 1) == [wal_of(b"alone")]


def test_an_encrypted_socket_is_read_and_written_like_any_other(tls_pair):
    ours, theirs = tls_pair
    file = ours.makefile("rwb")
    theirs.sendall(b"first " + b"x" * 100_000)
    assert file.read(100_006) == b"first " + b"x" * 100_000
    file.write(b"y" * 300_000)
    file.flush()
    file.close()
    received = b""
    while len(received) < 300_000:
        received += theirs.recv(1 << 16)
    assert received == b"y" * 300_000
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv(1)
    ours.settimeout(WAIT_S)
    farewell = threading.Thread(target=say_goodbye, args=(theirs,))
    farewell.start()
    assert ours.recv(1) == b""
    ours.close()
    farewell.join()


def test_a_certificate_that_does_not_pass_is_refused_and_the_server_told_why(pair, tmp_path):
    ours, theirs = pair
    ours.settimeout(WAIT_S)
    server = threading.Thread(target=greet_and_be_refused, args=(theirs, self_signed(tmp_path)))
    server.start()
    with pytest.raises(ssl.SSLCertVerificationError):
        TlsSocket(ours, ssl.create_default_context(), "localhost")
    server.join()


def greet_and_be_refused(theirs: socket.socket, server: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.?ca"):
        server.wrap_socket(theirs, server_side=True)
