"""Columns and key of a topic's table: from embedded schemas, from raypipe's own header, or from the values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import duckdb
import pyarrow as pa

from raypipe.codec import decode
from raypipe.errors import Corrupt, SchemaMismatch
from raypipe.model import TableName, TableSchema
from raypipe.sources.debezium.fields import Field, Form

# The header in which raypipe's log keeps the schema of a table that it writes as Debezium's JSON.
SCHEMA_HEADER = "raypipe.schema"


class Style(StrEnum):
    """Who says what the columns are."""

    EMBEDDED = "embedded"  # each message, in its part "schema"
    RAYPIPE = "raypipe"  # a header of raypipe's
    PLAIN = "plain"  # nobody: the values do


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a table looks like.

    Attributes:
        style: Who says so.
        fields: Columns in order.
        key: Columns of the messages' keys, in order; empty if messages have none.
        seen_ms: Timestamp of the message that said so; later messages may say something newer.
    """

    style: Style
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    seen_ms: int = 0

    def schema(self, name: TableName, version: int, *, key_only: bool) -> TableSchema:
        """For batches."""
        return TableSchema(
            table=name,
            columns=tuple(field.column for field in self.fields),
            key=self.key,
            version=version,
            key_only=key_only and bool(self.key),
        )

    def says_the_same(self, other: Shape) -> bool:
        """Whether columns and their types are the same."""
        mine, theirs = ([replace(field, declared="") for field in each.fields] for each in (self, other))
        return mine == theirs

    def as_text(self, columns: frozenset[str]) -> Shape:
        """The shape with some columns carried as text."""
        fields = [replace(field, form=Form.TEXT) if field.name in columns else field for field in self.fields]
        return replace(self, fields=tuple(fields))

    def parts(self) -> list[Any]:
        """For JSON; ``of_parts`` reads them back."""
        return [self.style.value, [field.parts() for field in self.fields], list(self.key), self.seen_ms]

    @classmethod
    def of_parts(cls, parts: Sequence[Any]) -> Shape:
        """Reads what ``parts`` gave."""
        style, fields, key, seen_ms = parts
        return cls(
            style=Style(style),
            fields=tuple(Field.of_parts(each) for each in fields),
            key=tuple(key),
            seen_ms=int(seen_ms),
        )


def of_header(header: bytes, seen_ms: int) -> Shape:
    """Of a table that raypipe wrote.

    Raises:
        Corrupt: the header is not raypipe's.
    """
    schema = decode(header).schema
    return Shape(
        style=Style.RAYPIPE,
        fields=tuple(Field.of_arrow(column) for column in schema.columns),
        key=schema.key,
        seen_ms=seen_ms,
    )


def of_embedded(envelope: Mapping[str, Any], key: tuple[str, ...], seen_ms: int) -> Shape | None:
    """Of an embedded schema; None if it is not that of an envelope with rows."""
    parts = {str(field.get("field")): field for field in envelope.get("fields") or ()}
    row = parts.get("after") or parts.get("before")
    if row is None or not row.get("fields"):
        return None
    fields = tuple(Field.of_connect(field) for field in row["fields"])
    return Shape(style=Style.EMBEDDED, fields=fields, key=key, seen_ms=seen_ms)


def of_values(values: Sequence[bytes], key: tuple[str, ...], topic: str, seen_ms: int) -> Shape | None:
    """What DuckDB makes of the rows in bare envelopes; None if there is no row among them.

    Whole numbers that fit are int64, all other numbers double, then booleans and text; a column with values of several
    kinds, with objects, lists or nothing but NULL is carried as JSON.

    Raises:
        SchemaMismatch: these are no envelopes.
    """
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        texts = pa.table({"value": pa.array(values, pa.binary()).cast(pa.string())})
        connection.register("given", texts)
        try:
            found = connection.sql(
                "SELECT CAST(json_group_structure(image) AS VARCHAR), count(op), count(*) FROM ("
                "SELECT coalesce(nullif(json_extract(value, '$.after'), 'null'), json_extract(value, '$.before'))"
                " AS image, json_extract(value, '$.op') AS op FROM given)"
            ).fetchall()
        except duckdb.Error as error:
            raise Corrupt(f"A message of topic {topic} is no JSON.", cause=error) from error
    ((structure, envelopes, count),) = found
    if count and not envelopes:
        raise no_envelope(topic)
    described = json.loads(structure) if structure else None
    if not isinstance(described, dict):
        return None
    fields = tuple(Field(name=name, form=_form_of(kind)) for name, kind in described.items())
    return Shape(style=Style.PLAIN, fields=fields, key=key, seen_ms=seen_ms)


def columns_of(value: bytes) -> frozenset[str]:
    """Names of the columns of the row in a bare envelope; none if it is something else, which decoding will tell."""
    try:
        row = json.loads(value)["after"]
    except (ValueError, TypeError, KeyError):
        return frozenset()
    return frozenset(row) if isinstance(row, dict) else frozenset()


def _form_of(kind: object) -> Form:
    plain = {
        "UBIGINT": Form.INT64,
        "BIGINT": Form.INT64,
        # What DuckDB calls it when both negative and positive numbers are there.
        "HUGEINT": Form.INT64,
        "DOUBLE": Form.DOUBLE,
        "BOOLEAN": Form.BOOL,
        "VARCHAR": Form.TEXT,
    }
    return plain.get(kind, Form.JSON) if isinstance(kind, str) else Form.JSON


def key_of(key: bytes, topic: str) -> tuple[str, ...]:
    """The columns of a message's key.

    Raises:
        SchemaMismatch: it is no JSON object.
    """
    try:
        payload = json.loads(key)
    except ValueError:
        payload = None
    if isinstance(payload, dict) and set(payload) == {"schema", "payload"}:
        payload = payload["payload"]
    if not isinstance(payload, dict):
        raise SchemaMismatch(
            f"The keys of topic {topic} are no JSON objects, so they do not say which columns they hold.",
            remedy="Use the JsonConverter for keys and take out transforms that replace them, such as ExtractField.",
            topic=topic,
        )
    return tuple(payload)


def no_envelope(topic: str) -> SchemaMismatch:
    """The error for messages that are something else."""
    return SchemaMismatch(
        f"The messages of topic {topic} are no envelopes of Debezium: they have no `op`.",
        remedy=(
            "Use the JsonConverter, and take out transforms that unwrap the row, such as ExtractNewRecordState: without"
            " the envelope a delete cannot be told from an update."
        ),
        topic=topic,
    )
