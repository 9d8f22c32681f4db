"""Copies rows of a table out of the server: COPY in binary format, decoded by column while it comes."""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raypipe.errors import Unavailable
from raypipe.sources.postgres.connect import Session, meaning, quoted
from raypipe.sources.postgres.decode import Shape, copied_rows, decode_copied
from raypipe.sources.postgres.keys import order_of, row_of
from raypipe.sources.postgres.misfits import Misfits
from raypipe.sources.postgres.refusals import PostgresError
from raypipe.sources.postgres.schema import Table
from raypipe.sources.postgres.wire import CopyStream

# A server that sends nothing for this long while it copies is taken for dead; a sort before the first row takes time.
SILENT_S = 300.0
# How much larger than asked for a chunk may become before it is cut off.
TOO_LARGE = 2
GULP_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Copied:
    """Rows of a copy.

    Attributes:
        columns: Of the shape's schema.
        misfits: Values that do not fit their column's type; None if all do.
    """

    columns: tuple[pa.Array, ...]
    misfits: Misfits | None


def gulp_bytes(room: int) -> int:
    """How much of a copy is taken at once, so that one that turns out too large is noticed soon."""
    return max(64 << 10, min(GULP_BYTES, room))


def copy_rows(
    session: Session, sql: str, shape: Shape, gulp_bytes: int = 4 << 20, silent_s: float = SILENT_S
) -> Generator[Copied]:
    """Runs a SELECT as a COPY; yields its rows by column, in parts of about ``gulp_bytes``.

    The iterator must be read to its end before the session is used for anything else.

    Raises:
        SchemaMismatch: a value does not fit, or the statement was refused.
        Unavailable: the server went silent or away.
    """
    sock, leftover = session.begin_copy(f"COPY ({sql}) TO STDOUT (FORMAT binary)")
    stream = CopyStream(sock, leftover=leftover, mark=struct.pack("!H", shape.sent))
    first = True
    try:
        while True:
            gulp = stream.gulp(silent_s, gulp_bytes)
            if stream.finished and gulp is None:
                break
            if gulp is None:
                raise Unavailable(f"PostgreSQL {session.address} sent nothing for {silent_s:.0f} s of a copy.")
            at = copied_rows(gulp, first=first)
            first = False
            if len(at):
                columns, misfits = decode_copied(gulp.buffer, at, shape)
                yield Copied(columns=tuple(columns), misfits=misfits)
    except PostgresError as error:
        raise meaning(session.address, error.sqlstate, error.server_message, error) from error
    finally:
        stream.release()
        session.end_copy()


def select_rows(table: Table, shape: Shape) -> str:
    """All rows of a table, in the shape's columns."""
    chosen = ", ".join(
        kind.copy_sql.format(quoted(name)) for kind, name in zip(shape.kinds, shape.schema.names, strict=True)
    )
    return f"SELECT {chosen} FROM {table.sql}"


def select_chunk(table: Table, shape: Shape, cursor: Sequence[str], limit: int) -> str:
    """The next rows by key behind a cursor."""
    order = order_of(table)
    beyond = f" WHERE ({order}) > ({row_of(table, cursor)})" if cursor else ""
    return f"{select_rows(table, shape)}{beyond} ORDER BY {order} LIMIT {limit}"


def select_part(table: Table, shape: Shape, source: tuple[str, str], cursor: Sequence[str], limit: int) -> str:
    """The next rows by key behind a cursor, of a part of a table.

    Args:
        table: Whose rows they are.
        shape: Whose columns.
        source: What to read from as SQL, and a condition; empty for none.
        cursor: A key as texts; empty at the beginning.
        limit: Rows at most.
    """
    chosen = ", ".join(
        kind.copy_sql.format(quoted(name)) for kind, name in zip(shape.kinds, shape.schema.names, strict=True)
    )
    order = order_of(table)
    beyond = f"({order}) > ({row_of(table, cursor)})" if cursor else ""
    given = " AND ".join(filter(None, (source[1], beyond)))
    return f"SELECT {chosen} FROM {source[0]}{f' WHERE {given}' if given else ''} ORDER BY {order} LIMIT {limit}"
