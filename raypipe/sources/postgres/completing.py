"""Completes rows whose large values the server did not send because an update left them alone (TOAST).

The value is read from the table by key. What it is *now* may be what a later update wrote, so rows completed with it
stand at no place of the stream that lies before that update. So they are completed in rounds: a read transaction at an
exact place ``lsn`` of the stream (see ``view``) serves every such row up to that place, and there is no boundary
before the stream has reached it. There all values are right: whatever changed one in between came by as a change. A row
that is not found has been deleted, or got another key, further on but before the boundary; a NULL stands in meanwhile.
Only a history keeps what was in between, and so may show a large value earlier than it was written; with REPLICA
IDENTITY FULL the server sends the old row along and nothing needs to be completed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import RaypipeError, SchemaMismatch, Unavailable
from raypipe.model import IMAGE, Image, TableSchema
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.captured import Captured
from raypipe.sources.postgres.connect import Session, literal, quoted
from raypipe.sources.postgres.copying import copy_rows
from raypipe.sources.postgres.decode import Decoded, shape_of
from raypipe.sources.postgres.keys import array_of
from raypipe.sources.postgres.misfits import Misfits, merged, of_parts
from raypipe.sources.postgres.position import Position
from raypipe.sources.postgres.schema import Table, find_tables
from raypipe.sources.postgres.server_text import as_text
from raypipe.sources.postgres.view import exact_moment


class Round:
    """One read transaction at a place of the stream, for all rows up to it that must be completed.

    Args:
        instance: Name.
        address: Of the database.
        limit: Position of a view that the stream is read up to: its transaction is joined, so that the stream has a
            boundary exactly there. None for a round of our own.

    Raises:
        Unavailable: the view is closed already, or the server cannot make a slot now.
    """

    def __init__(self, instance: str, address: Address, limit: Position | None) -> None:
        self._instance = instance
        self._stack = ExitStack()
        self._tables: Mapping[str, Table] = {}
        if limit is None:
            self._session, _, self.lsn = self._stack.enter_context(exact_moment(address))
        else:
            self.lsn = limit.lsn
            self._session = Session(address, "complete")
            self._stack.callback(self._session.close)
            self._session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                self._session.run(f"SET TRANSACTION SNAPSHOT {literal(limit.snapshot)}")
            except RaypipeError as error:
                self.close()
                raise Unavailable("The view that a source is read up to was closed.", cause=error) from error

    def complete(self, decoded: Decoded, captured: Captured) -> Decoded:
        """Changes whose images are all whole, at the latest where the round ends."""
        absent = decoded.absent
        if absent is None or not absent.any():
            return decoded
        schema = decoded.schema
        partial = np.flatnonzero(absent.any(axis=1))
        lacking = [schema.names[place] for place in np.flatnonzero(absent.any(axis=0)).tolist()]
        found, misfits = self._read(schema, decoded.rows.take(pa.array(partial)), lacking, captured)
        rows = decoded.rows
        for name, values in found.items():
            # Each partial row takes its value; the others keep theirs.
            whole = pa.nulls(rows.num_rows, values.type) if not len(values) else values.take(_places(partial, rows))
            place = rows.schema.get_field_index(name)
            mask = pa.array(absent[:, schema.names.index(name)])
            rows = rows.set_column(place, rows.schema.field(place), pc.if_else(mask, whole, rows.column(place)))
        image = rows.column(IMAGE).to_numpy(zero_copy_only=False).copy()
        image[partial] = Image.FULL
        rows = rows.set_column(rows.schema.get_field_index(IMAGE), rows.schema.field(IMAGE), pa.array(image, pa.int8()))
        if misfits is not None:
            numbers = np.full(rows.num_rows, -1)
            numbers[partial] = np.arange(len(partial))
            decoded = replace(decoded, misfits=merged(decoded.misfits, misfits.take(numbers)))
        return replace(decoded, rows=rows, absent=None)

    def close(self) -> None:
        """Ends the transaction; idempotent."""
        self._stack.close()

    def _read(
        self, schema: TableSchema, rows: pa.RecordBatch, names: list[str], captured: Captured
    ) -> tuple[dict[str, pa.Array], Misfits | None]:
        """Values of columns for each of the rows, NULL where there is no such row any more; and which do not fit."""
        path = f"{schema.table.schema}.{schema.table.table}"
        if path not in self._tables:
            self._tables = {**self._tables, **find_tables(self._session, self._instance, [path])}
        table = self._tables.get(path)
        types = {column.name: column.type for column in schema.columns}
        known = {field.name: field for field in table.fields} if table is not None else {}
        if table is None or not set(schema.key) <= known.keys():
            return {name: pa.nulls(rows.num_rows, types[name]) for name in names}, None
        now = {column.name: column for column in captured.sent(path, table.columns, table)}
        # A column that became another by now is not in the table's next version: its value is never looked at.
        readable = [name for name in names if name in now and now[name].kind(captured.catalog).type == types[name]]
        if not readable:
            return {name: pa.nulls(rows.num_rows, types[name]) for name in names}, None
        columns = tuple(column for name in readable for column in schema.columns if column.name == name)
        shape = shape_of(replace(schema, columns=columns, key=()), [now[name] for name in readable], captured.catalog)
        given = [f"k{place}" for place in range(len(schema.key))]
        arrays = ", ".join(f"{literal(array_of(as_text(rows.column(name))))}::text[]" for name in schema.key)
        joined = " AND ".join(
            f"t.{quoted(name)} = g.{key}::{known[name].type_sql}" for name, key in zip(schema.key, given, strict=True)
        )
        chosen = ", ".join(
            kind.copy_sql.format(f"t.{quoted(name)}") for kind, name in zip(shape.kinds, readable, strict=True)
        )
        parts = list(
            copy_rows(
                self._session,
                f"SELECT {chosen} FROM unnest({arrays}) WITH ORDINALITY AS g({', '.join(given)}, place)"
                f" LEFT JOIN {table.sql} AS t ON {joined} ORDER BY g.place",
                shape,
            )
        )
        read = {name: pa.concat_arrays([part.columns[place] for part in parts]) for place, name in enumerate(readable)}
        if any(len(values) != rows.num_rows for values in read.values()):
            raise SchemaMismatch(f"The key of {path} does not tell its rows apart.", table=path)
        whole = {name: read[name] if name in read else pa.nulls(rows.num_rows, types[name]) for name in names}
        misfits = of_parts([(part.misfits, len(part.columns[0])) for part in parts])
        return whole, None if misfits is None else misfits.among([schema.names.index(name) for name in readable])


def _places(partial: np.ndarray, rows: pa.RecordBatch) -> pa.Array:
    """For each row the place of its value among those read; NULL for rows that need none."""
    places = np.zeros(rows.num_rows, np.int64)
    places[partial] = np.arange(len(partial))
    needless = np.ones(rows.num_rows, np.bool_)
    needless[partial] = False
    return pa.array(places, mask=needless)
