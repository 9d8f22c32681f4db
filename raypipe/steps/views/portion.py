"""What one shard takes in of a batch, and how that travels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.contracts import WEIGHT_FIELD
from raypipe.errors import Corrupt

# By step and relation within it. The last column says of which row of the portion each is made, where weights stand
# otherwise.
Ahead = Mapping[tuple[str, str], pa.Table]

_WHAT = b"raypipe.what"


@dataclass(frozen=True, kw_only=True)
class Portion:
    """A shard's rows of a batch of one input.

    Attributes:
        trace: Of the input.
        rows: See ``Feed.selected``.
        ahead: What operators that look at single rows make of those that come. None if they failed: what fails may be
            a row that does not count, which only the shard can tell.
    """

    trace: str
    rows: pa.Table
    ahead: Ahead | None

    def only(self, mine: npt.NDArray[np.bool_]) -> Portion:
        """The rows whose flag is set, and what is made of them."""
        ahead = None
        if self.ahead is not None:
            places = np.cumsum(mine) - 1
            ahead = {}
            for name, table in self.ahead.items():
                numbers = numbers_of(table)
                kept = mine[numbers]
                ahead[name] = numbered(table.filter(pa.array(kept)), places[numbers[kept]])
        return Portion(trace=self.trace, rows=self.rows.filter(pa.array(mine)), ahead=ahead)


def joined(portions: Sequence[Portion]) -> Portion:
    """Several of one input as one, in their order."""
    first = portions[0]
    ahead: dict[tuple[str, str], pa.Table] | None = None
    if all(portion.ahead is not None for portion in portions):
        bases = np.cumsum([0, *(portion.rows.num_rows for portion in portions)])
        ahead = {
            name: pa.concat_tables(
                [
                    numbered(portion.ahead[name], numbers_of(portion.ahead[name]) + base)  # type: ignore[index]
                    for portion, base in zip(portions, bases, strict=False)
                ]
            )
            for name in first.ahead or ()
        }
    return Portion(trace=first.trace, rows=pa.concat_tables([portion.rows for portion in portions]), ahead=ahead)


def pack(portion: Portion) -> pa.Buffer:
    """Arrow IPC streams, one after the other: the rows, then each table that is made of them."""
    sink = pa.BufferOutputStream()
    parts: list[tuple[list[str], pa.Table]] = [([portion.trace], portion.rows)]
    if portion.ahead is None:
        parts.append(([], portion.rows.slice(0, 0)))
    else:
        parts += [(list(name), table) for name, table in portion.ahead.items()]
    for what, table in parts:
        described = table.replace_schema_metadata({_WHAT: json.dumps(what).encode()})
        with pa.ipc.new_stream(sink, described.schema) as writer:
            writer.write_table(described)
    return sink.getvalue()


def unpack(payload: pa.Buffer) -> Portion:
    """What ``pack`` wrote, in memory of its own.

    Raises:
        Corrupt: these bytes are not a portion.
    """
    own = pa.allocate_buffer(payload.size)
    memoryview(own)[:] = memoryview(payload)
    source = pa.BufferReader(own)
    parts: list[tuple[tuple[str, ...], pa.Table]] = []
    try:
        while source.tell() < own.size:
            table = pa.ipc.open_stream(source).read_all()
            what = json.loads((table.schema.metadata or {})[_WHAT])
            parts.append((tuple(what), table.replace_schema_metadata(None)))
        ((trace,), rows), *others = parts
        failed = any(not what for what, _ in others)
        ahead = None if failed else {(step, name): table for (step, name), table in others}
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError) as error:
        raise Corrupt(
            f"A portion of {own.size} bytes cannot be read as Arrow IPC.",
            remedy="Please report this defect.",
            cause=error,
            bytes=own.size,
        ) from error
    return Portion(trace=trace, rows=rows, ahead=ahead)


def numbers_of(table: pa.Table) -> npt.NDArray[np.int64]:
    """The last column."""
    numbers: npt.NDArray[np.int64] = table.column(table.num_columns - 1).to_numpy()
    return numbers


def numbered(table: pa.Table, numbers: npt.NDArray[np.int64]) -> pa.Table:
    """The table with another last column."""
    return table.set_column(table.num_columns - 1, WEIGHT_FIELD, pa.array(numbers, pa.int64()))
