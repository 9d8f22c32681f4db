"""Leaves a transaction open in a partition that the coordinator knows nothing of, as a broker's own defects do.

No client library does that: it tells the coordinator first. So this speaks the protocol itself, to a single broker with
``transaction.partition.verification.enable=false`` (with it on the broker asks the coordinator before it appends).
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Sequence

_INIT_PRODUCER_ID = (22, 1)
_PRODUCE = (0, 7)
_TRANSACTIONAL = 0x10


def leave_open(port: int, transactional_id: str, partitions: Sequence[tuple[str, int]]) -> None:
    """Takes a transactional id and appends a record of a transaction to each partition that never ends.

    Args:
        port: Of the broker on 127.0.0.1, without security.
        transactional_id: Whoever has it is fenced.
        partitions: Topic and number.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        body = _text(transactional_id) + struct.pack(">i", 60_000)
        deadline = time.monotonic() + 60
        while True:
            _, error, producer, epoch = struct.unpack(">ihqh", _asked(sock, _INIT_PRODUCER_ID, body))
            if error == 0:
                break
            assert time.monotonic() < deadline, f"no producer id: error {error}"
        for topic, number in partitions:
            records = _batch(producer, epoch, b"left open")
            body = _text(transactional_id) + struct.pack(">hii", -1, 30_000, 1) + _text(topic)
            body += struct.pack(">iii", 1, number, len(records)) + records
            answer = _asked(sock, _PRODUCE, body)
            (error,) = struct.unpack_from(">h", answer, 4 + 2 + len(topic) + 4 + 4)
            assert error == 0, f"{topic} {number}: error {error}"


def _asked(sock: socket.socket, api: tuple[int, int], body: bytes) -> bytes:
    request = struct.pack(">hhi", *api, 1) + _text("raw") + body
    sock.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _received(sock, 4))
    return _received(sock, size)[4:]


def _received(sock: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = sock.recv(size - len(content))
        assert part, "the broker closed the connection"
        content += part
    return content


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _batch(producer: int, epoch: int, value: bytes) -> bytes:
    """A record batch of format 2 that holds one record."""
    record = b"\0" + _varint(0) + _varint(0) + _varint(-1) + _varint(len(value)) + value + _varint(0)
    records = _varint(len(record)) + record
    now_ms = int(time.time() * 1000)
    content = struct.pack(">hiqqqhii", _TRANSACTIONAL, 0, now_ms, now_ms, producer, epoch, 0, 1) + records
    checked = struct.pack(">I", _crc32c(content)) + content
    rest = struct.pack(">ib", -1, 2) + checked
    return struct.pack(">qi", 0, len(rest)) + rest


def _varint(number: int) -> bytes:
    left = (number << 1) ^ (number >> 63)
    content = b""
    while left > 0x7F:
        content += bytes([left & 0x7F | 0x80])
        left >>= 7
    return content + bytes([left])


def _crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in itertools.repeat(None, 8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
