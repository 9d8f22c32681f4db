"""What a commit says: the versions that are kept, the runs that each is made of, and where their pieces lie.

A commit is one file: the runs that it adds, then this manifest as JSON, then a trailer of 24 bytes (little-endian)::

    magic "raystate" | format, 4 bytes | length of the manifest, 8 bytes | CRC-32 of format and manifest, 4 bytes
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from raypipe.contracts import TraceSchema
from raypipe.errors import StateLost
from raypipe.state.run import Block

FORMAT = 2
_READ = (1, FORMAT)  # the first one stores the weights of every row
_TRAILER = struct.Struct("<8sIQI")
_MAGIC = b"raystate"


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A stored run.

    Attributes:
        trace: Whose it is.
        file: Its file's name in the folder.
        blocks: Its pieces.
    """

    trace: str
    file: str
    blocks: tuple[Block, ...]

    @property
    def end(self) -> int:
        """Bytes that the file must have at least."""
        return max(block.offset + block.length for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """A version that is kept.

    Attributes:
        number: Of its cut.
        note: Of whoever committed it.
        runs: Names of the runs that each trace is made of.
    """

    number: int
    note: str
    runs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A commit.

    Attributes:
        sequence: Counts the commits; the highest one in the folder is the one that holds.
        generation: Of the writer.
        identity: What the state is of.
        lineage: See ``StateStore``.
        traces: By name.
        runs: By name.
        versions: Ascending.
    """

    sequence: int
    generation: int
    identity: str
    lineage: str
    traces: Mapping[str, TraceSchema]
    runs: Mapping[str, RunEntry]
    versions: tuple[VersionEntry, ...]

    def to_bytes(self) -> bytes:
        """The end of a commit's file."""
        described = {
            "sequence": self.sequence,
            "generation": self.generation,
            "identity": self.identity,
            "lineage": self.lineage,
            "traces": {
                name: {"columns": schema_text(trace.columns), "key": trace.key} for name, trace in self.traces.items()
            },
            "runs": {
                name: [run.trace, run.file, [block_fields(block) for block in run.blocks]]
                for name, run in self.runs.items()
            },
            "versions": [[version.number, version.note, version.runs] for version in self.versions],
        }
        body = json.dumps(described, separators=(",", ":")).encode()
        return body + _TRAILER.pack(_MAGIC, FORMAT, len(body), _crc(FORMAT, body))

    @classmethod
    def from_file(cls, content: pa.Buffer, place: str) -> Manifest:
        """Reads it from the content of a commit's file.

        Raises:
            StateLost: it is damaged, or of another format.
        """
        try:
            view = memoryview(content)
            magic, number, length, crc = _TRAILER.unpack(view[-_TRAILER.size :])
            body = bytes(view[len(view) - _TRAILER.size - length : len(view) - _TRAILER.size])
            if magic != _MAGIC or crc != _crc(number, body):
                raise _lost(place, "its checksum differs")
            if number not in _READ:
                raise _lost(place, f"it has format {number}, this raypipe reads {FORMAT}")
            return cls._of(json.loads(body))
        except (struct.error, ValueError, LookupError, TypeError, pa.ArrowException) as error:
            raise _lost(place, type(error).__name__) from error

    @classmethod
    def _of(cls, fields: Mapping[str, object]) -> Manifest:
        described: dict[str, object] = dict(fields)
        traces, runs, versions = described["traces"], described["runs"], described["versions"]
        assert isinstance(traces, dict)
        assert isinstance(runs, dict)
        assert isinstance(versions, list)
        return cls(
            sequence=int(str(described["sequence"])),
            generation=int(str(described["generation"])),
            identity=str(described["identity"]),
            lineage=str(described["lineage"]),
            traces={
                name: TraceSchema(name=name, columns=schema_from_text(trace["columns"]), key=tuple(trace["key"]))
                for name, trace in traces.items()
            },
            runs={
                name: RunEntry(trace=trace, file=file, blocks=tuple(block_of(block) for block in blocks))
                for name, (trace, file, blocks) in runs.items()
            },
            versions=tuple(
                VersionEntry(number=number, note=note, runs={name: tuple(named) for name, named in of.items()})
                for number, note, of in versions
            ),
        )


def _crc(number: int, body: bytes) -> int:
    return zlib.crc32(body, number)


def _lost(place: str, why: str) -> StateLost:
    return StateLost(
        f"The list of what the state in {place} holds cannot be read ({why}).",
        remedy="The state is rebuilt from the log or from a new snapshot.",
    )


def schema_text(schema: pa.Schema) -> str:
    """A schema as text, for JSON."""
    return base64.b64encode(schema.serialize()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """Reads what ``schema_text`` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def block_fields(block: Block) -> list[int]:
    """A piece's place, for JSON."""
    return [block.offset, block.length, block.rows, block.first, block.last, block.crc, int(block.ones)]


def block_of(fields: list[int]) -> Block:
    """Reads what ``block_fields`` wrote."""
    offset, length, rows, first, last, crc, *ones = fields
    return Block(offset=offset, length=length, rows=rows, first=first, last=last, crc=crc, ones=any(ones))
