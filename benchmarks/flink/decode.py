"""The files as change batches: what raypipe reads of the bytes that Flink reads."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pyarrow import json as pyarrow_json

from benchmarks.flink.inputs import CHANGING, TABLES, Inputs
from benchmarks.view_rig import batches
from raypipe.model import ChangeBatch, Op, TableSchema

# What is decoded at once; the rest of a line that such a block cuts goes to the next.
BLOCK_BYTES = 4 << 20
_LETTERS = pa.array(["c", "u", "d"])
_INSERTED, _UPDATED, _DELETED = range(3)


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
    """Lines of one file, decoded block by block."""

    def __init__(self, inputs: Inputs, table: str, opened: ExitStack) -> None:
        self._schema = TABLES[table]
        self._decode = _decode_json if table in CHANGING else _decode_csv
        self._changes = _changes if table in CHANGING else _inserts
        self._file = opened.enter_context(inputs.file(table).open("rb"))
        self._blocks = _blocks(self._file)
        self._waiting = pa.table({})
        self._taken = 0

    def take(self, upto: int, commit: int) -> Iterator[ChangeBatch]:
        """Changes up to a line."""
        while self._taken < upto:
            if not self._waiting.num_rows:
                self._waiting = self._decode(next(self._blocks), self._schema)
            lines = self._waiting.slice(0, upto - self._taken)
            self._waiting = self._waiting.slice(lines.num_rows)
            self._taken += lines.num_rows
            rows, ops = self._changes(lines, self._schema)
            yield from batches(self._schema, rows, ops, commit)


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


def _inserts(lines: pa.Table, schema: TableSchema) -> tuple[pa.Table, npt.NDArray[np.int8]]:  # noqa: ARG001
    return lines, np.full(lines.num_rows, Op.INSERT, np.int8)


def _decode_json(block: bytes, schema: TableSchema) -> pa.Table:
    image = pa.struct(list(schema.arrow()))
    lines = pa.schema([("before", image), ("after", image), ("op", pa.string())])
    return pyarrow_json.read_json(
        io.BytesIO(block),
        read_options=pyarrow_json.ReadOptions(use_threads=False, block_size=2 * BLOCK_BYTES),
        parse_options=pyarrow_json.ParseOptions(explicit_schema=lines, unexpected_field_behavior="error"),
    ).combine_chunks()


def _changes(lines: pa.Table, schema: TableSchema) -> tuple[pa.Table, npt.NDArray[np.int8]]:
    """An image for each insert and each delete, two for an update, in the order of the lines."""
    count = lines.num_rows
    kind = pc.index_in(lines.column("op"), value_set=_LETTERS).combine_chunks().to_numpy(zero_copy_only=False)
    line = np.repeat(np.arange(count), np.where(kind == _UPDATED, 2, 1))
    second = np.zeros(len(line), bool)
    second[1:] = line[1:] == line[:-1]
    kinds = kind[line]
    is_after = (kinds == _INSERTED) | second
    before, after = (lines.column(side).combine_chunks() for side in ("before", "after"))
    wanted = pa.array(line + np.where(is_after, count, 0))
    columns = [
        pa.concat_arrays([before.field(place), after.field(place)]).take(wanted) for place in range(len(schema.columns))
    ]
    ops = np.select(
        [kinds == _INSERTED, kinds == _DELETED, second], [Op.INSERT, Op.DELETE, Op.UPDATE_AFTER], Op.UPDATE_BEFORE
    )
    return pa.table(columns, schema=schema.arrow()), ops.astype(np.int8)
