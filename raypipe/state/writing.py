"""Writes runs into a file: for each Arrow's message of its schema, and a record batch message for each piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from raypipe.codec import checksum
from raypipe.contracts import TraceSchema
from raypipe.state.failures import says_why
from raypipe.state.manifest import RunEntry
from raypipe.state.order import places_of, stored_schema
from raypipe.state.run import Block
from raypipe.state.weights import count_once

_ALIGNMENT = 64
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class RunFile:
    """A new file, which is durable once ``finish`` returns and removed unless it was."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.bytes = 0
        self._path = folder / name
        with says_why(folder, "written"):
            self._file = open(self._path, "xb")  # noqa: SIM115 - closed by finish or on exit
        self._finished = False

    def add(self, schema: TraceSchema, blocks: Iterable[pa.RecordBatch], file: str) -> RunEntry | None:
        """Appends a run; None if it has no rows.

        Args:
            schema: Of its trace.
            blocks: Sorted stored rows.
            file: The name under which it will be read.
        """
        written: list[Block] = []
        for batch in blocks:
            if not batch.num_rows:
                continue
            if not written:
                self._write(stored_schema(schema.columns).serialize())
            ones = count_once(batch)
            message, at = (batch.select(batch.schema.names[:-1]) if ones else batch).serialize(), places_of(batch)
            self._align()
            block = Block(
                offset=self.bytes,
                length=len(message),
                rows=batch.num_rows,
                first=int(at[0]),
                last=int(at[-1]),
                crc=checksum(message, schema.name),
                ones=ones,
            )
            self._write(message)
            written.append(block)
        if not written:
            return None
        self._write(_END_OF_STREAM)
        self._align()
        return RunEntry(trace=schema.name, file=file, blocks=tuple(written))

    def finish(self, end: bytes = b"") -> None:
        """Writes the last bytes and makes the content durable."""
        self._write(end)
        with says_why(self._path.parent, "written"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._finished = True

    def __enter__(self) -> RunFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        with suppress(OSError):  # what is left is removed when the store is opened again
            self._path.unlink(missing_ok=True)
            self._file.close()

    def _write(self, content: bytes | pa.Buffer) -> None:
        with says_why(self._path.parent, "written"):
            self._file.write(content)
        self.bytes += len(content)

    def _align(self) -> None:
        self._write(bytes(-self.bytes % _ALIGNMENT))


def blocks_of(rows: Iterable[pa.RecordBatch], block_bytes: int) -> Iterator[pa.RecordBatch]:
    """Sorted batches, put together to blocks of about so many bytes."""
    gathered: list[pa.RecordBatch] = []
    size = 0
    for batch in rows:
        gathered.append(batch)
        size += batch.nbytes
        if size >= block_bytes:
            yield _joined(gathered)
            size = 0
    if gathered:
        yield _joined(gathered)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """All of them as one; column by column, what it is made of is let go: the list is empty afterwards."""
    if len(batches) == 1:
        return batches.pop()
    schema = batches[0].schema
    columns = [[batch.column(place) for batch in batches] for place in range(len(schema))]
    batches.clear()
    return pa.RecordBatch.from_arrays([pa.concat_arrays(columns.pop(0)) for _ in schema], schema=schema)
