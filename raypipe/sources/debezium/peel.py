"""Takes the embedded schema off messages without parsing it again: it is the same text in message after message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import Corrupt, LimitExceeded

_BEGIN = b'{"schema":'
_MIDDLE = ',"payload":'
_DECODER = json.JSONDecoder()
# Different schemas in the messages of one piece; a topic with more has one schema for each message.
_MOST = 1_000


class Peeler:
    """Knows the schemas of a topic's messages (or of its keys) by the bytes that they begin with.

    Attributes:
        schemas: What was found so far, by the bytes of a message up to its payload; None for a schema of null.
    """

    def __init__(self) -> None:
        self.schemas: dict[bytes, Mapping[str, Any] | None] = {}

    def peel(self, messages: pa.Array) -> tuple[pa.Array, list[tuple[int, bytes]]]:
        """The payloads, and for each schema the first message that has it (bare messages have none).

        Args:
            messages: Binary; NULL for a tombstone.

        Raises:
            Corrupt: a message begins like one with a schema and is not.
        """
        embedded = pc.fill_null(pc.starts_with(messages, _BEGIN), False).to_numpy(zero_copy_only=False)
        if not embedded.any():
            return messages, []
        left, payloads, firsts = embedded.copy(), messages, []
        while left.any():
            first = int(np.argmax(left))
            prefix = self._prefix(messages[first].as_py())
            these = left & _starting(messages, prefix)
            cut = pc.binary_slice(messages, len(prefix), -1)
            payloads = cut if these.all() else pc.if_else(pa.array(these), cut, payloads)
            firsts.append((first, prefix))
            left &= ~these
            if len(firsts) > _MOST:
                raise LimitExceeded(f"More than {_MOST} different schemas stand in the messages of one piece.")
        return payloads, firsts

    def _prefix(self, message: bytes) -> bytes:
        for prefix in self.schemas:
            if message.startswith(prefix):
                return prefix
        try:
            text = message.decode()
            schema, end = _DECODER.raw_decode(text, len(_BEGIN))
            if not text.startswith(_MIDDLE, end):
                raise ValueError("no payload")
        except ValueError as error:
            raise Corrupt("A message with a schema is not JSON as Kafka Connect writes it.", cause=error) from error
        prefix = text[: end + len(_MIDDLE)].encode()
        if len(self.schemas) >= _MOST:
            self.schemas.clear()
        self.schemas[prefix] = schema
        return prefix


def _starting(messages: pa.Array, prefix: bytes) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.fill_null(pc.starts_with(messages, prefix), False).to_numpy(zero_copy_only=False)
    return found
