"""Values of any Arrow type as text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def as_text(array: pa.Array) -> pa.Array:
    """Values as texts that PostgreSQL reads back as the same values."""
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array.cast(pa.string())
    if pa.types.is_fixed_size_binary(kind):
        array = array.cast(pa.binary())
        kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _hex(array.cast(pa.large_binary()))
    return array.cast(pa.string())


def _hex(array: pa.Array) -> pa.Array:
    """Bytes as ``\\x…``."""
    array = pa.concat_arrays([array])  # drops an offset
    _, offsets, data = array.buffers()
    digits = pa.py_buffer((data.to_pybytes() if data is not None else b"").hex().encode())
    doubled = pa.py_buffer(np.frombuffer(offsets, np.int64)[: len(array) + 1] * 2)
    return pc.binary_join_element_wise(
        pa.scalar("\\x"), pa.LargeStringArray.from_buffers(len(array), doubled, digits).cast(pa.string()), ""
    )
