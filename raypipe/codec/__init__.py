"""Bytes ⇄ batches: what the log stores."""

from raypipe.codec.arrow import Compression, decode, encode
from raypipe.codec.checksum import checksum
from raypipe.codec.split import split

__all__ = ["Compression", "checksum", "decode", "encode", "split"]
