"""The checksum kept beside everything stored: it tells damage, and bytes found in a place that is not theirs."""

from __future__ import annotations

import zlib

import pyarrow as pa


def checksum(content: bytes | pa.Buffer, place: str) -> int:
    """CRC-32 (zlib) of the content, begun with the place it belongs to, so that swapped contents are noticed too."""
    return zlib.crc32(content, zlib.crc32(place.encode()))
