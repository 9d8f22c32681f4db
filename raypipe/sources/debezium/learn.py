"""Finds out what a topic's table looks like, from some messages at its beginning and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
from confluent_kafka import Message

from raypipe.errors import SchemaMismatch
from raypipe.sources.debezium.address import Address
from raypipe.sources.debezium.peel import Peeler
from raypipe.sources.debezium.shape import SCHEMA_HEADER, Shape, key_of, of_embedded, of_header, of_values
from raypipe.sources.debezium.topics import Topics, stamp_of

# Messages to look at in each partition: enough to meet the kinds of value a column has, little enough for a moment.
_AT_BEGINNING = 1_000
_AT_END = 200


def learn(topics: Topics, address: Address, table: str, begins: Sequence[int], ends: Sequence[int]) -> Shape:
    """The newest shape that a topic shows.

    Args:
        topics: To ask.
        address: Of the source.
        table: As the pipeline file writes it.
        begins: First offset of each partition.
        ends: End of each partition.

    Raises:
        SchemaMismatch: the topic has no message that tells the table's columns.
        Unavailable: no answer.
    """
    topic = address.topic(table)
    late = [max(begin, end - _AT_END) for begin, end in zip(begins, ends, strict=True)]
    messages = topics.sample(topic, begins, ends, _AT_BEGINNING)
    messages += topics.sample(topic, late, ends, _AT_END)
    messages.sort(key=stamp_of)
    shape = shape_of(messages, topic)
    if shape is None:
        raise SchemaMismatch(
            f"Topic {topic} has no message yet that tells the columns of its table.",
            remedy="Begin when the table has a row; a topic without messages has no schema.",
            topic=topic,
        )
    if shape.key and not set(shape.key) <= {field.name for field in shape.fields}:
        raise SchemaMismatch(
            f"The keys of topic {topic} hold columns that its rows do not have.",
            remedy="Take out transforms and settings that change keys, such as message.key.columns.",
            topic=topic,
        )
    return shape.as_text(chosen_as_text(address, table))


def chosen_as_text(address: Address, table: str) -> frozenset[str]:
    """Columns of a table that the URL wants as text."""
    pairs = (each.rpartition(".") for each in address.text_columns)
    return frozenset(column for of, _, column in pairs if of in (table, table.rpartition(".")[2]))


def shape_of(messages: Sequence[Message], topic: str) -> Shape | None:
    """What messages, oldest first, say together; None if they say nothing."""
    key = next((key_of(key, topic) for message in messages if (key := message.key())), ())
    newest = None
    bare: list[bytes] = []
    peeler = Peeler()
    for message in messages:
        header = header_of(message)
        value = message.value()
        if header is not None:
            newest = of_header(header, stamp_of(message))
        elif value is not None:
            _, firsts = peeler.peel(pa.array([value], pa.binary()))
            schema = peeler.schemas[firsts[0][1]] if firsts else None
            shown = of_embedded(schema, key, stamp_of(message)) if schema else None
            newest = shown or newest
            if not firsts:
                bare.append(value)
    if newest is None and bare:
        newest = of_values(bare, key, topic, stamp_of(messages[-1]))
    return newest


def header_of(message: Message) -> bytes | None:
    """raypipe's schema in a message's headers."""
    found = [value for name, value in message.headers() or () if name == SCHEMA_HEADER]
    return found[-1] if found and isinstance(found[-1], bytes) else None


def merged(known: Shape, newer: Shape) -> Shape:
    """The known columns in their order, as the newer shape has them where it does, and then those that are new."""
    newest = {field.name: field for field in newer.fields}
    fields = [newest.pop(field.name, field) for field in known.fields]
    return replace(newer, fields=(*fields, *newest.values()), key=newer.key or known.key)


def outgrown(known: Shape, newer: Shape) -> bool:
    """Whether what later messages say does not fit into a shape: an unknown column, or one of another type."""
    have = {field.name: replace(field, declared="") for field in known.fields}
    for field in newer.fields:
        if field.name not in have and newer.seen_ms >= known.seen_ms:
            return True
        if field.name in have and have[field.name] != replace(field, declared="") and newer.seen_ms > known.seen_ms:
            return True
    return False
