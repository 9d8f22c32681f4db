"""The blocks of an epoch's dataset: what its tasks make of the log, for sinks and for the shards of the state.

Several relations have several schemas and a dataset has one, so each row of a block carries one thing, encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import pyarrow as pa

from raypipe.codec import decode, encode
from raypipe.model import ChangeBatch
from raypipe.steps import Portion, pack, unpack


class Holds(IntEnum):
    """What a row of a block is.

    ``READ``: so many row images were read. ``MADE``: changes of a relation for the sinks. ``FED``: changes of a
    relation for every shard. ``PORTION``: what one shard takes in.
    """

    READ = 0
    MADE = 1
    FED = 2
    PORTION = 3


SCHEMA = pa.schema(
    [
        ("holds", pa.int8()),
        ("number", pa.int64()),  # of rows read, or of the shard
        ("relation", pa.string()),
        ("content", pa.large_binary()),
    ]
)


def read(rows: int) -> pa.Table:
    """A row that says how many row images were read."""
    return _row(Holds.READ, rows, None, None)


def made(relation: str, changes: ChangeBatch) -> pa.Table:
    """A row for the sinks."""
    return _row(Holds.MADE, 0, relation, encode(changes))


def fed(relation: str, changes: ChangeBatch) -> pa.Table:
    """A row for all shards."""
    return _row(Holds.FED, 0, relation, encode(changes))


def portion(shard: int, content: Portion) -> pa.Table:
    """A row for one shard."""
    return _row(Holds.PORTION, shard, None, pack(content))


def rows_read(block: pa.Table) -> int:
    """Row images that were read for this block."""
    return int(block.column("number").to_numpy()[_places(block, Holds.READ)].sum())


def made_in(block: pa.Table) -> Iterator[tuple[str, ChangeBatch]]:
    """What is for the sinks, in its order."""
    return _changes(block, Holds.MADE)


def fed_by(block: pa.Table) -> Iterator[tuple[str, ChangeBatch]]:
    """What is for all shards, in its order."""
    return _changes(block, Holds.FED)


def portions_in(block: pa.Table, shard: int) -> Iterator[Portion]:
    """What one shard takes in, in its order."""
    numbers = block.column("number").to_numpy()
    for place in _places(block, Holds.PORTION):
        if numbers[place] == shard:
            yield unpack(block.column("content")[place].as_buffer())


def _changes(block: pa.Table, holds: Holds) -> Iterator[tuple[str, ChangeBatch]]:
    """Unpacked, so in memory of its own."""
    for place in _places(block, holds):
        yield block.column("relation")[place].as_py(), decode(block.column("content")[place].as_buffer())


def _places(block: pa.Table, holds: Holds) -> list[int]:
    """Rows of one kind; picked singly, since filtering would copy what they hold."""
    places: list[int] = np.flatnonzero(block.column("holds").to_numpy() == holds).tolist()
    return places


def _row(holds: Holds, number: int, relation: str | None, content: pa.Buffer | None) -> pa.Table:
    bounds = pa.py_buffer(np.array([0, 0 if content is None else content.size], np.int64))
    packed = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, bounds, content or pa.py_buffer(b"")])
    return pa.table(
        [pa.array([holds], pa.int8()), pa.array([number], pa.int64()), pa.array([relation], pa.string()), packed],
        schema=SCHEMA,
    )
