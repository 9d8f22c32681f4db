"""The checksum kept beside everything stored: it tells damage, and bytes found in a place that is not theirs."""

from __future__ import annotations

import pyarrow as pa
from zlib_ng import zlib_ng


def checksum(content: bytes | pa.Buffer, place: str) -> int:
    """CRC-32 (zlib) of the content, begun with the place it belongs to, so that swapped contents are noticed too."""
    return int(zlib_ng.crc32(content, zlib_ng.crc32(place.encode())))
