"""A hash of whole rows or of some of their columns, 64 bits; stored state lies in its order, so it must not change.

In 64-bit arithmetic that wraps around::

    mix(x):   x ^= x >> 30;  x *= 0xBF58476D1CE4E5B9;  x ^= x >> 27;  x *= 0x94D049BB133111EB;  x ^= x >> 31
    value:    NULL                                    0x9E3779B97F4A7C15
              a number or moment of fixed width       its bits, as one or more words
              a float                                 the bits of it as float64, one NaN, one zero
              text, binary                            len + sum of mix(word[i] + (i + 1) * 0x9E3779B97F4A7C15)
              a struct                                0, then the words of its fields
              a list                                  len + sum of mix(hash(item[i]) + (i + 1) * 0x9E3779B97F4A7C15)
              anything else (maps, intervals, …)      0
    hash:     h = 0; for each word of each column: h = mix(h * 0x9E3779B97F4A7C15 + word)

Values that DuckDB groups as equal have equal hashes; the converse is checked by whoever relies on it. The mixing
function is the finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORD_BYTES = 8
# Of texts: up to here each word takes less time by itself than all of them in one array.
_FEW_WORDS = 8
# Temporary arrays of this many rows stay in the processor's cache.
_ROWS_AT_A_TIME = 1 << 15


def one_batch(rows: pa.Table) -> pa.RecordBatch:
    """A table in one piece."""
    if not rows.num_rows:
        return pa.RecordBatch.from_pylist([], schema=rows.schema)
    combined = rows.combine_chunks().to_batches()
    return combined[0] if len(combined) == 1 else pa.concat_batches(combined)


def hashes(rows: pa.RecordBatch, *columns: Sequence[str]) -> list[Words]:
    """For each set of columns, its hash of each row; a column that is in several is looked at once."""
    results = [np.empty(rows.num_rows, dtype=np.uint64) for _ in columns]
    names = dict.fromkeys(name for each in columns for name in each)
    for begin in range(0, rows.num_rows, _ROWS_AT_A_TIME):
        part = rows.slice(begin, _ROWS_AT_A_TIME)
        words = {name: list(_words(part.column(name))) for name in names}
        for result, each in zip(results, columns, strict=True):
            result[begin : begin + part.num_rows] = _hash(part.num_rows, (w for name in each for w in words[name]))
    return results


def _hash(count: int, words: Iterator[Words]) -> Words:
    hashes = np.zeros(count, dtype=np.uint64)
    for word in words:
        hashes *= _GOLDEN
        hashes += word
        _mix(hashes)
    return hashes


def _mix(x: Words) -> Words:
    """Mixes in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _words(column: pa.Array) -> Iterator[Words]:
    """The value of each row, in one or more words."""
    absent = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    for words in _valid_words(column):
        yield words if absent is None else np.where(absent, _GOLDEN, words)


def _valid_words(column: pa.Array) -> Iterator[Words]:
    """Likewise, with anything in place of NULL."""
    types, kind = pa.types, column.type
    if isinstance(column, pa.ExtensionArray):
        yield from _valid_words(column.storage)
    elif types.is_string_view(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        yield _texts(column.cast(pa.large_binary()))
    elif types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        yield _texts(column)
    elif types.is_floating(kind):
        yield _floats(column)
    elif types.is_boolean(kind):
        yield pc.fill_null(column, False).cast(pa.uint8()).to_numpy(zero_copy_only=False).astype(np.uint64)
    elif types.is_decimal(kind):
        yield from _wide(column)
    elif types.is_integer(kind) or _is_moment(kind):
        yield _fixed(column)
    elif types.is_struct(kind):
        yield np.zeros(len(column), dtype=np.uint64)  # tells a NULL from a struct of NULLs
        for number in range(kind.num_fields):
            yield from _words(column.field(number))
    elif types.is_list(kind) or types.is_large_list(kind):
        yield _lists(column)
    else:
        yield np.zeros(len(column), dtype=np.uint64)


def _is_moment(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind) or types.is_duration(kind))


def _fixed(column: pa.Array) -> Words:
    """Values of 8 to 64 bits; whole numbers keep their sign."""
    kind = column.type
    signed = not pa.types.is_integer(kind) or pa.types.is_signed_integer(kind)
    dtype = np.dtype(f"{'i' if signed else 'u'}{kind.bit_width // 8}")
    values = np.frombuffer(column.buffers()[1], dtype=dtype, count=len(column), offset=column.offset * dtype.itemsize)
    return values.astype(np.int64 if signed else np.uint64).view(np.uint64)


def _wide(column: pa.Array) -> Iterator[Words]:
    """Decimals: values of 32 bits or of whole words."""
    width = column.type.bit_width // 8
    data = np.frombuffer(column.buffers()[1], np.uint8, count=len(column) * width, offset=column.offset * width)
    if width < _WORD_BYTES:
        yield data.view(np.int32).astype(np.int64).view(np.uint64)
        return
    words = data.view(np.uint64).reshape(len(column), width // _WORD_BYTES)
    for place in range(words.shape[1]):
        yield words[:, place]


def _floats(column: pa.Array) -> Words:
    numbers = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    return np.where(np.isnan(numbers), np.nan, numbers + 0.0).view(np.uint64)


def _texts(column: pa.Array) -> Words:
    """Hashes bytes eight at a time, all values at once."""
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    offsets = np.int64 if wide else np.int32
    _, begins_buffer, data_buffer = column.buffers()
    if begins_buffer is None or not len(column):
        return np.zeros(len(column), dtype=np.uint64)
    begins = np.frombuffer(
        begins_buffer, offsets, count=len(column) + 1, offset=column.offset * np.dtype(offsets).itemsize
    ).astype(np.int64)
    lengths = np.diff(begins)
    counts = (lengths + (_WORD_BYTES - 1)) // _WORD_BYTES
    filled = np.flatnonzero(counts)
    if not filled.size:
        return lengths.view(np.uint64)
    # A word is read wherever it begins; the last one may reach over the end, where there must be something to read.
    data = np.zeros(int(begins[-1] - begins[0]) + _WORD_BYTES, dtype=np.uint8)
    data[:-_WORD_BYTES] = np.frombuffer(data_buffer, np.uint8, count=len(data) - _WORD_BYTES, offset=int(begins[0]))
    anywhere = np.ndarray((len(data) - _WORD_BYTES + 1,), dtype="<u8", buffer=data.data, strides=(1,))
    if int(counts.max()) <= _FEW_WORDS:
        return _short_texts(begins[:-1] - begins[0], lengths, filled, anywhere)
    counts = counts[filled]
    firsts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)[:-1]))
    number = np.arange(int(counts.sum())) - np.repeat(firsts, counts)
    words = anywhere[np.repeat((begins[:-1] - begins[0])[filled], counts) + number * _WORD_BYTES]
    lasts = firsts + counts - 1
    over = (counts * _WORD_BYTES - lengths[filled]).astype(np.uint64) * np.uint64(8)
    words[lasts] &= np.uint64(0xFFFFFFFFFFFFFFFF) >> over
    words += (number.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    hashes = lengths.astype(np.uint64)
    hashes[filled] += np.add.reduceat(_mix(words), firsts)
    return hashes


def _short_texts(begins: Places, lengths: Places, filled: Places, anywhere: Words) -> Words:
    """The same where values have few words: the first word of all of them, then the second of those that have one."""
    hashes: Words = lengths.astype(np.uint64)
    number = 0
    while filled.size:
        left = lengths[filled] - number * _WORD_BYTES
        words = anywhere[begins[filled] + number * _WORD_BYTES]
        over = np.maximum(_WORD_BYTES - left, 0).astype(np.uint64) * np.uint64(8)
        words &= np.uint64(0xFFFFFFFFFFFFFFFF) >> over
        number += 1
        words += np.uint64(number * int(_GOLDEN) & 0xFFFFFFFFFFFFFFFF)
        hashes[filled] += _mix(words)
        filled = filled[left > _WORD_BYTES]
    return hashes


def _lists(column: pa.Array) -> Words:
    begins = column.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(begins)
    hashes: Words = lengths.astype(np.uint64)
    filled = np.flatnonzero(lengths)
    if not filled.size:
        return hashes
    items = column.values.slice(int(begins[0]), int(begins[-1] - begins[0]))
    firsts = begins[:-1][filled] - begins[0]
    number = np.arange(len(items)) - np.repeat(firsts, lengths[filled])
    words = _hash(len(items), _words(items)) + (number.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    hashes[filled] += np.add.reduceat(_mix(words), firsts)
    return hashes
