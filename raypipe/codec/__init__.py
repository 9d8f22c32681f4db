"""Bytes ⇄ batches: what the log stores."""

from raypipe.codec.arrow import Compression, decode, encode
from raypipe.codec.checksum import checksum
from raypipe.codec.decimals import decimal_text
from raypipe.codec.hexadecimal import hex_text, hex_values
from raypipe.codec.json_text import JSON_NULL, in_brackets, json_arrays, json_objects, json_strings, relisted
from raypipe.codec.keyhash import shard_of
from raypipe.codec.rowequal import certainly_equal, comparable
from raypipe.codec.rowhash import hashes, one_batch
from raypipe.codec.rowlast import last_rows, taken
from raypipe.codec.split import split
from raypipe.codec.wordorder import ascending

__all__ = [
    "JSON_NULL",
    "Compression",
    "ascending",
    "certainly_equal",
    "checksum",
    "comparable",
    "decimal_text",
    "decode",
    "encode",
    "hashes",
    "hex_text",
    "hex_values",
    "in_brackets",
    "json_arrays",
    "json_objects",
    "json_strings",
    "last_rows",
    "one_batch",
    "relisted",
    "shard_of",
    "split",
    "taken",
]
