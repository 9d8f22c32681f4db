"""The files as change batches: what raypipe reads of the bytes that Flink reads."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from benchmarks.flink.inputs import CHANGING, TABLES, Inputs
from benchmarks.view_rig import BATCH_ROWS, batches
from raypipe.model import ChangeBatch, Op, TableSchema

# What is decoded at once; the rest of a line that such a block cuts goes to the next.
BLOCK_BYTES = 4 << 20
# Of Debezium: which images a change has, and where they are.
_LETTERS = {
    "c": ((Op.INSERT,), "[after]"),
    "u": ((Op.UPDATE_BEFORE, Op.UPDATE_AFTER), "[before, after]"),
    "d": ((Op.DELETE,), "[before]"),
}
_TYPES = {
    "int64": "BIGINT",
    "string": "VARCHAR",
    "timestamp[us]": "TIMESTAMP",
    "decimal128(12, 2)": "DECIMAL(12, 2)",
}


class Changes:
    """The lines of several tables' files, each file at the same pace: after half of the work half of each is read.

    Args:
        inputs: The files.
        tables: To read.

    Attributes:
        lines: Of all of them.
        taken: So far.
    """

    def __init__(self, inputs: Inputs, tables: tuple[str, ...]) -> None:
        self.lines = sum(inputs.lines[table] for table in tables)
        self.taken = 0
        self._inputs = inputs
        self._opened = ExitStack()
        self._files = {table: _File(inputs, table, self._opened) for table in tables}

    def take(self, lines: int, commit: int) -> Iterator[tuple[TableSchema, ChangeBatch]]:
        """The next lines, as changes of a transaction of that number."""
        self.taken = min(self.lines, self.taken + lines)
        for table, file in self._files.items():
            # Exact at the end: then all lines of each were taken.
            upto = self._inputs.lines[table] * self.taken // self.lines
            for batch in file.take(upto, commit):
                yield TABLES[table], batch

    def close(self) -> None:
        """Closes the files; idempotent."""
        self._opened.close()


def nothing(schema: TableSchema) -> Iterator[ChangeBatch]:
    """How a table's changes begin: emptied."""
    rows = pa.table({column.name: pa.nulls(1, column.type) for column in schema.columns}, schema.arrow())
    return batches(schema, rows, np.array([Op.TRUNCATE], np.int8), 0)


class _File:
    """Lines of one file, decoded piece by piece."""

    def __init__(self, inputs: Inputs, table: str, opened: ExitStack) -> None:
        self._schema = TABLES[table]
        decoded = _json if table in CHANGING else _csv
        self._pieces = decoded(inputs.file(table), self._schema, opened)
        self._waiting = _Piece(rows=pa.table({}), ops=np.zeros(0, np.int8))
        self._taken = 0

    def take(self, upto: int, commit: int) -> Iterator[ChangeBatch]:
        """Changes up to a line."""
        while self._taken < upto:
            if not self._waiting.lines:
                self._waiting = next(self._pieces)
            taken, self._waiting = self._waiting.split(upto - self._taken)
            self._taken += taken.lines
            yield from batches(self._schema, taken.rows, taken.ops, commit)


class _Piece:
    """Decoded lines.

    Args:
        rows: Images: one for each insert and each delete, two for an update, in the order of the lines.
        ops: What each is.
    """

    def __init__(self, rows: pa.Table, ops: npt.NDArray[np.int8]) -> None:
        self.rows = rows
        self.ops = ops
        self._begins = np.flatnonzero(ops != Op.UPDATE_AFTER)

    @property
    def lines(self) -> int:
        """How many."""
        return len(self._begins)

    def split(self, lines: int) -> tuple[_Piece, _Piece]:
        """The first so many lines, and the rest."""
        end = int(self._begins[lines]) if lines < self.lines else len(self.ops)
        return _Piece(self.rows.slice(0, end), self.ops[:end]), _Piece(self.rows.slice(end), self.ops[end:])


def _csv(path: Path, schema: TableSchema, opened: ExitStack) -> Iterator[_Piece]:
    for block in _blocks(opened.enter_context(path.open("rb"))):
        rows = _decode_csv(block, schema)
        yield _Piece(rows, np.full(rows.num_rows, Op.INSERT, np.int8))


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines."""
    rest = b""
    while block := file.read(BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        yield rest + block[:end]
        rest = block[end:]
    if rest:
        yield rest


def _decode_csv(block: bytes, schema: TableSchema) -> pa.Table:
    types: Mapping[str, pa.DataType] = {column.name: column.type for column in schema.columns}
    return csv.read_csv(
        io.BytesIO(block),
        read_options=csv.ReadOptions(column_names=list(types), use_threads=False, block_size=2 * BLOCK_BYTES),
        convert_options=csv.ConvertOptions(column_types=types),
    ).combine_chunks()


def _json(path: Path, schema: TableSchema, opened: ExitStack) -> Iterator[_Piece]:
    """By DuckDB in one thread, as raypipe's source for Debezium decodes messages."""
    database = opened.enter_context(duckdb.connect(config={"threads": 1}))
    image = ", ".join(f'"{column.name}" {_TYPES[str(column.type)]}' for column in schema.columns)
    columns = f"columns = {{before: 'STRUCT({image})', after: 'STRUCT({image})', op: 'VARCHAR'}}"
    told = " ".join(f"WHEN '{letter}' THEN {images}" for letter, (_, images) in _LETTERS.items())
    ops = " ".join(f"WHEN '{letter}' THEN {[int(op) for op in ops]}" for letter, (ops, _) in _LETTERS.items())
    none = "ELSE error('There is a change of another kind.') END"
    reader = database.sql(
        f"SELECT CAST(unnest(CASE op {ops} {none}) AS TINYINT) AS op,"
        f" unnest(CASE op {told} {none}) AS image"
        f" FROM read_json('{path}', {columns}, format = 'newline_delimited')"
    ).to_arrow_reader(BATCH_ROWS)
    for batch in reader:
        images = batch.column(1)
        values = [images.field(place).cast(column.type) for place, column in enumerate(schema.columns)]
        yield _Piece(pa.table(values, schema=schema.arrow()), batch.column(0).to_numpy())
