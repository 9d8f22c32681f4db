"""Messages of table topics: a batch each, with a header that says where it belongs."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

HEADER = "raypipe"

# Format, log, place among the appends of the instance, number among this log's messages in the partition, messages that
# belong together, flags.
_LAYOUT = struct.Struct(">B16sqqIB")
_FORMAT = 1
_COPY = 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """Where a message belongs.

    Attributes:
        log: Identity of the log.
        place: Of the append, counted over all topics of the instance: readers merge partitions by it.
        sequence: Counts this log's messages in the partition, from 0 without gaps: a message that is missing shows.
        messages: How many messages, this one included, make up the batch; they stand one after the other.
        copy: A TRUNCATE goes to every partition of its topic, so that each can be read by itself; all but the first are
            copies, which a reader of all partitions leaves out.
    """

    log: str
    place: int
    sequence: int
    messages: int = 1
    copy: bool = False

    def to_bytes(self) -> bytes:
        """The header's value."""
        flags = _COPY if self.copy else 0
        log = uuid.UUID(self.log).bytes
        return _LAYOUT.pack(_FORMAT, log, self.place, self.sequence, self.messages, flags)

    @classmethod
    def from_bytes(cls, content: bytes) -> Header:
        """Reads what ``to_bytes`` wrote.

        Raises:
            ValueError: it is something else.
        """
        if len(content) != _LAYOUT.size or content[0] != _FORMAT:
            raise ValueError("no raypipe header of a known format")
        _, log, place, sequence, messages, flags = _LAYOUT.unpack(content)
        return cls(
            log=str(uuid.UUID(bytes=log)),
            place=place,
            sequence=sequence,
            messages=messages,
            copy=bool(flags & _COPY),
        )


def header_of(headers: Sequence[tuple[str, bytes | str | None]] | None) -> Header | None:
    """The raypipe header among a message's; None if there is none.

    Raises:
        ValueError: it cannot be read.
    """
    for name, content in headers or ():
        if name == HEADER:
            if not isinstance(content, bytes):
                raise ValueError("no raypipe header of a known format")
            return Header.from_bytes(content)
    return None
