"""Looks for places near the ends of topics."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from confluent_kafka import Message

from raypipe.sources.debezium.parse import Format, Parser
from raypipe.sources.debezium.peel import Peeler
from raypipe.sources.debezium.topics import Topics, stamps_of
from raypipe.sources.debezium.transactions import Transactions, belonging, ends_of

# Messages to look at, and how many times more if that does not do.
_FIRST, _MORE = 256, 8


def aligned(
    topics: Topics, parser: Parser, format_: Format, begins: tuple[int, ...], ends: tuple[int, ...], lsn: int
) -> tuple[int, ...]:
    """For each partition the offset of the first message of a later transaction than the one that ended at ``lsn``.

    Args:
        topics: To read from.
        parser: Of messages.
        format_: Of the topic's messages.
        begins: Where to look no further back.
        ends: Of the partitions.
        lsn: Where the transaction ended.

    Raises:
        Unavailable: no answer.
    """
    return tuple(
        _first_later(topics, parser, format_, partition, begin, end, lsn)
        for partition, (begin, end) in enumerate(zip(begins, ends, strict=True))
    )


def _first_later(
    topics: Topics, parser: Parser, format_: Format, partition: int, begin: int, end: int, lsn: int
) -> int:
    width = _FIRST
    while begin < end:
        low = max(begin, end - width)
        messages = topics.span(format_.topic, partition, low, end)
        if messages:
            offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
            payloads, keys = (
                Peeler().peel(pa.array(list(map(part, messages)), pa.binary()))[0]
                for part in (Message.value, Message.key)
            )
            chunk = parser.parse(format_, keys, payloads, stamps_of(messages), offsets)
            count = belonging(chunk, lsn)
            if count == len(messages):
                return end
            if count or low == begin:
                return int(offsets[count])
        elif low == begin:
            return end
        width *= _MORE
    return end


def newest_transactions(
    topics: Topics, parser: Parser, topic: str, id_: str, tables: Mapping[str, str], begin: int, end: int
) -> Transactions:
    """Behind the last transaction that has ended.

    Args:
        topics: To read from.
        parser: That has the connection.
        topic: Debezium's transaction topic.
        id_: That Kafka gave it.
        tables: What it calls the tables, by their topics.
        begin: Its first offset.
        end: Its end.

    Raises:
        Unavailable: no answer.
    """
    found, width = Transactions(topic=topic, id=id_, tables=tables, at=begin), _FIRST
    while begin < end:
        low = max(begin, end - width)
        messages = topics.span(topic, 0, low, end)
        ends = ends_of(messages, tables, found.peeler, parser.connection) if messages else None
        if ends is not None and len(ends):
            last = int(np.argmax(ends.lsn))
            found.at, found.lsn, found.time_ms = int(ends.offsets[last]), int(ends.lsn[last]), int(ends.time_ms[last])
            break
        if low == begin:
            break
        width *= _MORE
    found.forget()
    return found
