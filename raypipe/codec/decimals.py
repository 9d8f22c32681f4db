"""Decimals as text in plain notation; Arrow writes 0.0000001 as 1E-7."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_PLAIN_SCALE = 6  # up to here Arrow uses no exponent


def decimal_text(column: pa.Array) -> pa.Array:
    """Decimals in plain notation with all their decimal places: 1.50, 0.0000001."""
    scale = column.type.scale
    if scale <= _PLAIN_SCALE:
        return column.cast(pa.string())
    whole_type = pa.decimal256 if pa.types.is_decimal256(column.type) else pa.decimal128
    unscaled = whole_type(column.type.precision, 0)
    digits = pa.Array.from_buffers(unscaled, len(column), column.buffers(), column.null_count, column.offset).cast(
        "string"
    )
    sign = pc.if_else(pc.starts_with(digits, "-"), "-", "")
    padded = pc.utf8_lpad(pc.utf8_ltrim(digits, "-"), scale + 1, "0")
    whole, places = pc.utf8_slice_codeunits(padded, 0, -scale), pc.utf8_slice_codeunits(padded, -scale)
    return pc.binary_join_element_wise(pc.binary_join_element_wise(sign, whole, ""), places, ".")
