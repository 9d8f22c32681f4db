"""Bytes as hexadecimal digits, and back, a column at once."""

from __future__ import annotations

import binascii

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def hex_text(values: pa.Array) -> pa.Array:
    """Binary values as digits, in small letters; NULL stays NULL."""
    values = pa.concat_arrays([values])  # drops an offset
    _, offsets, data = values.buffers()
    digits = pa.py_buffer(binascii.hexlify(data) if data is not None else b"")
    doubled = pa.py_buffer(np.frombuffer(offsets, np.int32)[: len(values) + 1].astype(np.int64) * 2)
    text = pa.Array.from_buffers(pa.large_string(), len(values), [None, doubled, digits]).cast(pa.string())
    return pc.if_else(values.is_valid(), text, pa.scalar(None, pa.string()))


def hex_values(text: pa.Array) -> pa.Array:
    """Takes ``hex_text`` back.

    Raises:
        ValueError: some text is not made of pairs of digits.
    """
    text = pa.concat_arrays([text])
    _, offsets, digits = text.buffers()
    bounds = np.frombuffer(offsets, np.int32)[: len(text) + 1]
    if (bounds % 2).any():
        raise ValueError("An odd number of digits.")
    data = pa.py_buffer(binascii.unhexlify(memoryview(digits)[: bounds[-1]]) if digits is not None else b"")
    values = pa.Array.from_buffers(pa.binary(), len(text), [None, pa.py_buffer(bounds // np.int32(2)), data])
    return pc.if_else(text.is_valid(), values, pa.scalar(None, pa.binary()))
