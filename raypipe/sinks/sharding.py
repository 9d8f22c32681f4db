"""Which shard a key lives in: a hash that must never change, since stored rows do not move.

The hash of a key, in 64-bit arithmetic that wraps around::

    mix(x):   x ^= x >> 30;  x *= 0xBF58476D1CE4E5B9;  x ^= x >> 27;  x *= 0x94D049BB133111EB;  x ^= x >> 31
    value:    NULL                                              0x9E3779B97F4A7C15
              a whole number below 10^18 in size, of any type   mix(its two's complement)
              bool, date, time, timestamp                       mix(0 or 1, days, microseconds, microseconds (or ns))
              any other float                                   mix(bits of the float64, one NaN)
              any other number                                  bytes(its decimal digits, no trailing zeros)
              text, binary                                      bytes(UTF-8, or as it is)
    bytes(b): mix(len(b) ^ sum of (b[i] + 1) * 0x100000001B3 ** (i + 1))
    key:      h = 0; for each key column in key order: h = mix(h * 0x9E3779B97F4A7C15 + value)
    shard:    h modulo the number of shards

So 7 hashes alike as int8, int64, decimal or double: a key column that is widened keeps its rows where they are. The
mixing function is the finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import SchemaMismatch
from raypipe.model import OP, ChangeBatch, Op
from raypipe.sinks.text import decimal_text
from raypipe.sinks.types import stored_type

Hashes = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_PRIME = 0x100000001B3
_SMALL = 10**18


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several equal stores that share the rows of a sink.

    Attributes:
        index: From 0.
        count: Of the shards.
    """

    index: int
    count: int

    def share(self, batch: ChangeBatch) -> ChangeBatch:
        """The changes this shard keeps: those of its keys, and every TRUNCATE.

        A relation without a key lives in shard 0: a hash of all values would move with every column that comes.
        """
        if self.count == 1:
            return batch
        mine = self._owns(batch.rows, batch.schema.key) | _truncates(batch.rows)
        return ChangeBatch(schema=batch.schema, rows=batch.rows.filter(pa.array(mine)))

    def strays(self, rows: pa.RecordBatch, key: Sequence[str]) -> pa.RecordBatch:
        """The stored rows among these that are another shard's; of a history's rows never a TRUNCATE."""
        if self.count == 1:
            return rows.slice(0, 0)
        return rows.filter(pa.array(~(self._owns(rows, key) | _truncates(rows))))

    def _owns(self, rows: pa.RecordBatch, key: Sequence[str]) -> npt.NDArray[np.bool_]:
        if key:
            return np.equal(shard_of(rows, key, self.count), self.index)
        return np.full(rows.num_rows, self.index == 0)


def _truncates(rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    if OP not in rows.schema.names:
        return np.zeros(rows.num_rows, dtype=np.bool_)
    return np.asarray(rows.column(OP).to_numpy() == Op.TRUNCATE)


def shard_of(rows: pa.RecordBatch, key: Sequence[str], shards: int) -> npt.NDArray[np.int64]:
    """The shard of each row, 0 to ``shards`` - 1, by the formula above.

    Raises:
        SchemaMismatch: a key column has a type no store holds.
    """
    hashes = np.zeros(rows.num_rows, dtype=np.uint64)
    for name in key:
        hashes = _mix(hashes * _GOLDEN + _values(rows.column(name), name))
    return (hashes % np.uint64(shards)).astype(np.int64)


def _mix(x: Hashes) -> Hashes:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _values(column: pa.Array, name: str) -> Hashes:
    types, stored = pa.types, stored_type(column.type)
    if stored is None:
        raise SchemaMismatch(f"Key column {name} has the type {column.type}, which cannot be spread over shards.")
    column = column.cast(stored)
    if types.is_string(stored) or types.is_binary(stored):
        hashes = _bytes(column)
    elif types.is_decimal(stored) or types.is_uint64(stored):
        hashes = _digits(column)
    elif types.is_floating(stored):
        hashes = _floats(column)
    else:
        hashes = _whole(column)
    if column.null_count:
        hashes = np.where(column.is_null().to_numpy(zero_copy_only=False), _GOLDEN, hashes)
    return hashes


def _whole(column: pa.Array) -> Hashes:
    """Integers, and what counts something: bool, days, microseconds."""
    counts = column.view(f"int{column.type.bit_width}") if pa.types.is_temporal(column.type) else column
    numbers = pc.fill_null(counts, pa.scalar(0).cast(counts.type)).to_numpy(zero_copy_only=False).astype(np.int64)
    hashes = _mix(numbers.view(np.uint64))
    large = (numbers >= _SMALL) | (numbers <= -_SMALL)
    if pa.types.is_integer(column.type) and large.any():
        hashes[large] = _bytes(pa.array(numbers[large]).cast(pa.string()))
    return hashes


def _digits(column: pa.Array) -> Hashes:
    """Decimals, by their digits: small whole ones as the integer they are."""
    text = decimal_text(column) if pa.types.is_decimal(column.type) else column.cast(pa.string())
    if pa.types.is_decimal(column.type) and column.type.scale > 0:
        text = pc.utf8_rtrim(pc.utf8_rtrim(text, "0"), ".")
    whole = pc.invert(pc.match_substring(text, "."))
    small = pc.fill_null(pc.and_(whole, pc.less_equal(pc.utf8_length(pc.utf8_ltrim(text, "-")), 18)), False)
    hashes = _bytes(text)
    chosen = small.to_numpy(zero_copy_only=False)
    hashes[chosen] = _mix(text.filter(small).cast(pa.int64()).to_numpy().view(np.uint64))
    return hashes


def _floats(column: pa.Array) -> Hashes:
    numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    numbers = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN; -0.0 is 0.0
    hashes = _mix(numbers.view(np.uint64))
    whole = (np.abs(numbers) < _SMALL) & (np.floor(numbers) == numbers)
    hashes[whole] = _mix(numbers[whole].astype(np.int64).view(np.uint64))
    return hashes


def _bytes(column: pa.Array) -> Hashes:
    """A polynomial over the bytes of each value, all values at once."""
    if not len(column):
        return np.zeros(0, dtype=np.uint64)
    column = column.cast(pa.large_binary())
    begins = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(begins)
    hashes = np.zeros(len(column), dtype=np.uint64)
    filled = np.flatnonzero(lengths)
    if filled.size:
        data = np.frombuffer(column.buffers()[2], dtype=np.uint8)[begins[0] : begins[-1]]
        starts = begins[:-1] - begins[0]
        powers = np.cumprod(np.full(int(lengths.max()), _PRIME, dtype=np.uint64), dtype=np.uint64)
        place = np.arange(data.size) - np.repeat(starts, lengths)
        terms = (data.astype(np.uint64) + np.uint64(1)) * powers[place]
        hashes[filled] = np.add.reduceat(terms, starts[filled])
    return _mix(hashes ^ lengths.view(np.uint64))
