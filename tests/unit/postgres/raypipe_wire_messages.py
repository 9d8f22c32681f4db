"""PostgreSQL's messages written from the protocol's description, by nothing that raypipe has: what tests decode."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from raypipe.sources.postgres.frames import PADDING_BYTES
from raypipe.sources.postgres.wire import Gulp

POSTGRES_EPOCH_US = 946_684_800_000_000
UNCHANGED = object()

# A value of a tuple: text, bytes (binary format), None (NULL) or UNCHANGED.
Value = str | bytes | None | object


def message(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("!i", len(payload) + 4) + payload


def wal(body: bytes, lsn: int = 1) -> bytes:
    return message(b"d", b"w" + struct.pack("!qqq", lsn, lsn, 0) + body)


def keepalive(end_lsn: int, *, reply: bool = False, time_us: int = POSTGRES_EPOCH_US) -> bytes:
    return message(b"d", b"k" + struct.pack("!qqB", end_lsn, time_us - POSTGRES_EPOCH_US, reply))


def begin(final_lsn: int, time_us: int, xid: int) -> bytes:
    return b"B" + struct.pack("!qqI", final_lsn, time_us - POSTGRES_EPOCH_US, xid)


def commit(lsn: int, end_lsn: int, time_us: int) -> bytes:
    return b"C" + struct.pack("!Bqqq", 0, lsn, end_lsn, time_us - POSTGRES_EPOCH_US)


def tuple_data(values: Sequence[Value]) -> bytes:
    parts = [struct.pack("!H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            data = value.encode() if isinstance(value, str) else value
            assert isinstance(data, bytes)
            parts.append((b"t" if isinstance(value, str) else b"b") + struct.pack("!i", len(data)) + data)
    return b"".join(parts)


def insert(oid: int, new: Sequence[Value], xid: bytes = b"") -> bytes:
    return b"I" + xid + struct.pack("!I", oid) + b"N" + tuple_data(new)


def update(oid: int, new: Sequence[Value], old: Sequence[Value] | None = None, old_kind: bytes = b"O") -> bytes:
    before = b"" if old is None else old_kind + tuple_data(old)
    return b"U" + struct.pack("!I", oid) + before + b"N" + tuple_data(new)


def delete(oid: int, old: Sequence[Value], old_kind: bytes = b"O") -> bytes:
    return b"D" + struct.pack("!I", oid) + old_kind + tuple_data(old)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def relation(oid: int, schema: str, table: str, identity: str, columns: Sequence[tuple[int, str, int, int]]) -> bytes:
    """Columns: flags, name, type, modifier."""
    body = b"R" + struct.pack("!I", oid) + text(schema) + text(table) + identity.encode()
    body += struct.pack("!H", len(columns))
    for flags, name, type_oid, typmod in columns:
        body += struct.pack("!B", flags) + text(name) + struct.pack("!Ii", type_oid, typmod)
    return body


def truncate(oids: Sequence[int], options: int = 0, xid: bytes = b"") -> bytes:
    return b"T" + xid + struct.pack(f"!IB{len(oids)}I", len(oids), options, *oids)


def logical_message(prefix: str, content: bytes, *, transactional: bool, lsn: int) -> bytes:
    return b"M" + struct.pack("!Bq", transactional, lsn) + text(prefix) + struct.pack("!I", len(content)) + content


def gulp(messages: Sequence[bytes]) -> Gulp:
    """Messages as a reader receives them together; all of them CopyData."""
    data = b"".join(messages)
    sizes = np.array([len(each) for each in messages], np.int64)
    ends = np.cumsum(sizes)
    buffer = np.frombuffer(data + bytes(PADDING_BYTES), np.uint8).copy()
    return Gulp(buffer=buffer, at=ends - sizes + 5, size=sizes - 5)
