"""``pg_decode``: PostgreSQL's replication messages to Arrow change batches, without a server or a socket.

All seconds are CPU seconds of this process, which works in one thread.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from raypipe.model import Column, TableName, TableSchema
from raypipe.sources.postgres.decode import SentColumn, Shape, decode, shape_of
from raypipe.sources.postgres.events import Rows
from raypipe.sources.postgres.frames import HEADER_BYTES, PADDING_BYTES, Bytes, find_messages
from raypipe.sources.postgres.pgoutput import Scanner
from raypipe.sources.postgres.types import Catalog
from raypipe.sources.postgres.wire import Gulp

ROWS = 500_000
TRANSACTION_ROWS = 100
GULP_BYTES = 4 << 20  # as the reader takes them in a backlog
TABLES = 4  # whose rows are mixed
FIRST_OID = 16_384
# Of pg_type: oid, name, what format_type calls it.
TYPES = (
    (20, "int8", "bigint"),
    (23, "int4", "integer"),
    (25, "text", "text"),
    (701, "float8", "double precision"),
    (1184, "timestamptz", "timestamp with time zone"),
    (1700, "numeric", "numeric"),
)
NUMERIC_12_2 = (12 << 16 | 2) + 4
COLUMNS = (
    SentColumn(name="id", type_oid=20),
    SentColumn(name="amount", type_oid=23),
    SentColumn(name="customer", type_oid=20),
    SentColumn(name="score", type_oid=701),
    SentColumn(name="note", type_oid=25),
    SentColumn(name="changed_at", type_oid=1184),
    SentColumn(name="price", type_oid=1700, typmod=NUMERIC_12_2),
)


class PgDecode:
    """Finding messages, following transactions, pairing images and converting seven columns, on one core."""

    name = "pg_decode"
    about = (
        "Row changes per second of one core that pgoutput's messages give as Arrow: 60 % inserts, 25 % updates (a third"
        " with an unchanged column left out), 15 % deletes by key, a tenth of texts and floats NULL, four tables mixed."
    )
    figures = (
        Figure(
            name="pg_decode",
            unit="rows/s/core",
            beside="a bare Python loop that hops from message to message and looks at nothing else",
            goal=Goal(text=">= 1,000,000", of="value", at_least=1_000_000),
        ),
        Figure(
            name="pg_decode_copy",
            unit="MB/s/core",
            beside="the messages copied in memory",
        ),
    )
    repetitions = Repetitions(full=5, quick=3)

    def run(self, folder: Path, size: Size) -> Samples:  # noqa: ARG002
        """Decodes the same bytes that the bare loop hops over."""
        count = ROWS if size is Size.FULL else ROWS // 10
        data, million = _stream(count), count / 1e6
        buffer = np.frombuffer(data + bytes(PADDING_BYTES), np.uint8)
        decoded_s, parts = _decode(buffer, len(data), count)
        hopped_s = _hop(data)
        began = time.process_time()
        buffer.copy()
        copied_s = time.process_time() - began
        return Samples(
            by_figure={
                "pg_decode": Sample(value=count / decoded_s, limit=count / hopped_s),
                "pg_decode_copy": Sample(value=len(data) / 1e6 / decoded_s, limit=len(data) / 1e6 / copied_s),
            },
            notes=(
                f"{count:,} changes in {len(data) / 1e6:,.0f} MB, {decoded_s / million:.2f} CPU-seconds per million",
                *(f"{what}: {seconds / million:.2f} CPU-seconds per million" for what, seconds in parts.items()),
            ),
        )


def _decode(buffer: Bytes, end: int, count: int) -> tuple[float, dict[str, float]]:
    """CPU seconds, and those of each part."""
    scanner, shapes = Scanner(), _shapes()
    parts = {"finding messages": 0.0, "following transactions": 0.0, "images and columns": 0.0}
    rows = 0
    began = time.process_time()
    at = 0
    while at < end:
        start = time.process_time()
        starts, after = find_messages(buffer, at, min(at + GULP_BYTES, end), b"w")
        sizes = np.diff(np.append(starts, after)) - HEADER_BYTES
        found = time.process_time()
        events = scanner.scan(Gulp(buffer=buffer, at=starts + HEADER_BYTES, size=sizes))
        scanned = time.process_time()
        for event in events:
            assert isinstance(event, Rows)
            decode(event, shapes)
            rows += len(event)
        decoded = time.process_time()
        parts["finding messages"] += found - start
        parts["following transactions"] += scanned - found
        parts["images and columns"] += decoded - scanned
        at = after
    seconds = time.process_time() - began
    assert rows == count
    return seconds, parts


def _hop(data: bytes) -> float:
    read_length, at, end = struct.Struct("!i").unpack_from, 0, len(data)
    began = time.process_time()
    while at < end:
        at += read_length(data, at + 1)[0] + 1
    return time.process_time() - began


def _shapes() -> dict[int, Shape]:
    catalog = Catalog([(oid, "pg_catalog", name, "b", 0, 0, -1, 0, "false", declared) for oid, name, declared in TYPES])
    return {
        FIRST_OID + number: shape_of(
            TableSchema(
                table=TableName("shop", "public", f"t{number}"),
                columns=tuple(Column(name=column.name, type=column.kind(catalog).type) for column in COLUMNS),
                key=("id",),
            ),
            COLUMNS,
            catalog,
        )
        for number in range(TABLES)
    }


def _stream(count: int) -> bytes:
    """Transactions as the server sends them."""
    random = np.random.default_rng(7)
    kinds = random.choice(np.frombuffer(b"IUD", np.uint8), count, p=[0.6, 0.25, 0.15]).tolist()
    unset, left_out = (random.random((2, count)) < 0.1).tolist(), (random.random(count) < 1 / 3).tolist()
    floats, tables = random.random(count).tolist(), random.integers(0, TABLES, count).tolist()
    parts = []
    for number, kind in enumerate(kinds):
        if number % TRANSACTION_ROWS == 0:
            parts.append(_wal(b"B" + struct.pack("!qqI", number + 1, number, number + 1)))
        key = _text(b"%d" % number)
        oid = struct.pack("!I", FIRST_OID + tables[number])
        if kind == ord("D"):
            parts.append(_wal(b"D" + oid + b"K" + struct.pack("!H", len(COLUMNS)) + key + b"n" * 6))
        else:
            values = (
                key,
                _text(b"%d" % (number % 1000)),
                _text(b"%d" % (number * 7919)),
                b"n" if unset[0][number] else _text(repr(floats[number]).encode()),
                b"u" if kind == ord("U") and left_out[number] else _note(number, unset=unset[1][number]),
                _text(b"2026-11-%02d %02d:34:56.%06d+00" % (number % 28 + 1, number % 24, number % 1_000_000)),
                _text(b"%d.%02d" % (number % 100_000, number % 100)),
            )
            parts.append(_wal(bytes([kind]) + oid + b"N" + struct.pack("!H", len(COLUMNS)) + b"".join(values)))
        if number % TRANSACTION_ROWS == TRANSACTION_ROWS - 1:
            parts.append(_wal(b"C" + struct.pack("!Bqqq", 0, number, number + 1, number)))
    return b"".join(parts)


def _note(number: int, *, unset: bool) -> bytes:
    return b"n" if unset else _text(b"some text %d" % number)


def _text(value: bytes) -> bytes:
    return b"t" + struct.pack("!i", len(value)) + value


def _wal(body: bytes) -> bytes:
    return b"d" + struct.pack("!i", len(body) + 29) + b"w" + struct.pack("!qqq", 1, 1, 0) + body
