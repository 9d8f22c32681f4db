"""What tests of the decoder read real servers with: one slot, one table, no source around it."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
from postgres_database import Database

from raypipe.model import Column, TableName, TableSchema
from raypipe.sources.postgres.address import parse_address
from raypipe.sources.postgres.connect import Session
from raypipe.sources.postgres.decode import SentColumn, Shape, copied_rows, decode_copied, shape_of
from raypipe.sources.postgres.events import Event
from raypipe.sources.postgres.pgoutput import Scanner
from raypipe.sources.postgres.types import TYPES_SQL, Catalog
from raypipe.sources.postgres.wire import CopyStream

WITHIN_S = 60.0


class Lab:
    """A database whose slot ``lab`` waits from the beginning; one reader at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._address = parse_address("lab", database.url)
        self.session = Session(self._address, "lab")

    def publish(self, *tables: str) -> None:
        """Makes publication and slot; what is written from here on is in the stream."""
        self.database.rows(f"CREATE PUBLICATION lab FOR TABLE {', '.join(tables)}")
        self.database.rows(
            f"SELECT pg_create_logical_replication_slot('{self.database.slot}', 'pgoutput', false, true)"
        )

    def events(self, until: Callable[[list[Event]], bool], options: str = "proto_version '1'") -> Iterator[Event]:
        """Events of the stream up to the gulp after which the condition holds; each is good until the next gulp."""
        session = Session(self._address, "lab stream", replication=True)
        scanner = Scanner(int(options.split("'")[1]))
        seen: list[Event] = []
        try:
            sock, leftover = session.begin_copy(
                f"START_REPLICATION SLOT {self.database.slot} LOGICAL 0/0 ({options}, publication_names 'lab')"
            )
            stream, deadline = CopyStream(sock, leftover=leftover), time.monotonic() + WITHIN_S
            while not until(seen):
                assert time.monotonic() < deadline, "the stream ends before what the test waits for"
                gulp = stream.gulp(1.0)
                for event in scanner.scan(gulp) if gulp is not None else ():
                    seen.append(event)
                    yield event
        finally:
            session.close()

    def shape(self, table: str, key: tuple[str, ...] = ("id",)) -> Shape:
        """Of a table as the catalog has it now."""
        catalog = Catalog(self.session.rows(TYPES_SQL))
        rows = self.session.rows(
            "SELECT attname::text, atttypid::bigint, atttypmod, attndims FROM pg_attribute"
            f" WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        sent = [
            SentColumn(name=name, type_oid=int(oid), typmod=int(typmod), dimensions=int(dimensions))
            for name, oid, typmod, dimensions in rows
        ]
        kinds = [column.kind(catalog) for column in sent]
        schema = TableSchema(
            table=TableName("lab", "public", table),
            columns=tuple(
                Column(name=column.name, type=kind.type, declared=kind.declared)
                for column, kind in zip(sent, kinds, strict=True)
            ),
            key=key,
        )
        return shape_of(schema, sent, catalog)

    def copy(self, shape: Shape, table: str) -> tuple[list[pa.Array], list[int]]:
        """All rows of a table by COPY (FORMAT binary), by column, and the places of misfits."""
        names = ", ".join(
            kind.copy_sql.format(f'"{column.name}"')
            for kind, column in zip(shape.kinds, shape.schema.columns, strict=True)
        )
        sock, leftover = self.session.begin_copy(
            f"COPY (SELECT {names} FROM {table} ORDER BY id) TO STDOUT (FORMAT binary)"
        )
        stream, parts, misfits, first = (
            CopyStream(sock, leftover=leftover, mark=struct.pack("!H", shape.sent)),
            [],
            [],
            True,
        )
        while not stream.finished:
            gulp = stream.gulp(WITHIN_S)
            if gulp is not None:
                at = copied_rows(gulp, first=first)
                first = False
                arrays, places = decode_copied(gulp.buffer, at, shape)
                parts.append(arrays)
                misfits += [-1] * len(at) if places is None else places.places.tolist()
        self.session.end_copy()
        return [pa.concat_arrays(column) for column in zip(*parts, strict=True)], misfits

    def close(self) -> None:
        self.session.close()
