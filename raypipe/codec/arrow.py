"""Change batches as bytes and back: one self-describing Arrow IPC stream for each batch.

The stream's schema message carries the table's name, key, version, branches and declared types in its metadata, so a
payload can be read by itself, years later, and by any Arrow reader.
"""

from __future__ import annotations

import json
from enum import Enum
from functools import lru_cache

import pyarrow as pa

from raypipe.errors import Corrupt, InvariantBroken
from raypipe.model import SYSTEM_FIELDS, ChangeBatch, Column, TableName, TableSchema

_METADATA_KEY = b"raypipe.table"
_FORMAT = 1

# A pipeline has few schemas at a time; the bound only keeps a long life with many schema versions from growing.
_CACHED_SCHEMAS = 1024


class Compression(Enum):
    """How the buffers of a payload are compressed; the value is Arrow's name for it."""

    NONE = None
    LZ4 = "lz4"  # 0.9 GB/s on one core, about half the size
    ZSTD = "zstd"  # half that speed, smaller again, and 0.2 ms more for every batch however small


# Arrow's thread pool costs 0.1 ms for each batch, more than it saves on a small one. From this size on, in memory or
# stored, a batch is worth it: one of 3 MiB takes a quarter less time.
_THREADS_BYTES = 1 << 20
_WRITE = {
    (way, threads): pa.ipc.IpcWriteOptions(compression=way.value, use_threads=threads)
    for way in Compression
    for threads in (False, True)
}
_READ = {threads: pa.ipc.IpcReadOptions(use_threads=threads) for threads in (False, True)}


def encode(batch: ChangeBatch, compression: Compression = Compression.LZ4) -> pa.Buffer:
    """One Arrow IPC stream that holds the batch and describes its table.

    Raises:
        InvariantBroken: the rows do not have the columns that the batch's schema names.
    """
    stream = pa.BufferOutputStream()
    options = _WRITE[compression, batch.rows.nbytes >= _THREADS_BYTES]
    try:
        with pa.ipc.new_stream(stream, _described(batch.schema), options=options) as writer:
            writer.write_batch(batch.rows)
    except pa.ArrowException as error:
        raise InvariantBroken(
            f"A batch of table {batch.schema.table} does not have the columns of its schema version"
            f" {batch.schema.version}.",
            remedy="Please report this defect.",
            cause=error,
            table=str(batch.schema.table),
        ) from error
    return stream.getvalue()


def decode(payload: bytes | pa.Buffer) -> ChangeBatch:
    """The batch that ``encode`` wrote; uncompressed buffers are used in place, without a copy.

    Raises:
        Corrupt: these bytes are not a batch.
    """
    view = memoryview(payload)
    try:
        schema = _table_schema(_head(view))
        rows = pa.ipc.open_stream(view, options=_READ[len(view) >= _THREADS_BYTES]).read_next_batch()
    except (pa.ArrowException, OSError, StopIteration, LookupError, ValueError, TypeError) as error:
        raise Corrupt(
            f"A stored batch of {len(view)} bytes cannot be read as Arrow IPC.",
            remedy="It was damaged after it was written, or written by a newer raypipe.",
            cause=error,
            bytes=len(view),
        ) from error
    # The metadata is ours alone: left on, it would travel into the files and tables that sinks write.
    return ChangeBatch(schema=schema, rows=rows.replace_schema_metadata(None))


@lru_cache(_CACHED_SCHEMAS)
def _described(schema: TableSchema) -> pa.Schema:
    table = schema.table
    description = {
        "format": _FORMAT,
        "instance": table.instance,
        "schema": table.schema,
        "table": table.table,
        "key": list(schema.key),
        "version": schema.version,
        "branches": schema.branches,
        "declared": [column.declared for column in schema.columns],
    }
    return ChangeBatch.arrow_schema(schema).with_metadata({_METADATA_KEY: json.dumps(description)})


def _head(payload: memoryview) -> bytes:
    """The schema message alone: equal bytes mean an equal schema, so it is the key of the cache.

    Encapsulated message format: 0xFFFFFFFF, the length of what follows as little-endian int32, then the message.
    """
    return bytes(payload[: 8 + int.from_bytes(payload[4:8], "little")])


@lru_cache(_CACHED_SCHEMAS)
def _table_schema(head: bytes) -> TableSchema:
    arrow = pa.ipc.read_schema(pa.py_buffer(head))
    description = json.loads((arrow.metadata or {})[_METADATA_KEY])
    if description["format"] != _FORMAT:
        raise ValueError(f"payload format {description['format']}, this raypipe reads {_FORMAT}")
    first = len(SYSTEM_FIELDS) + (1 if description["branches"] > 1 else 0)
    fields = [arrow.field(place) for place in range(first, len(arrow))]
    return TableSchema(
        table=TableName(description["instance"], description["schema"], description["table"]),
        columns=tuple(
            Column(name=field.name, type=field.type, declared=declared)
            for field, declared in zip(fields, description["declared"], strict=True)
        ),
        key=tuple(description["key"]),
        version=description["version"],
        branches=description["branches"],
    )
