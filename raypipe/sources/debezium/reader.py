"""Reads the topics of a source, piece by piece, and loads tables again whose topics say more than was known."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from confluent_kafka import Message

from raypipe.contracts import Piece
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, ChangeBatch, Image, Op, TableSchema
from raypipe.sources.debezium.address import Address
from raypipe.sources.debezium.failures import gap
from raypipe.sources.debezium.fetch import Fetcher, Run
from raypipe.sources.debezium.following import Following
from raypipe.sources.debezium.gather import Gathered, Plain, Whole
from raypipe.sources.debezium.images import Table, changes
from raypipe.sources.debezium.learn import chosen_as_text, header_of, merged, outgrown
from raypipe.sources.debezium.parking import Parking
from raypipe.sources.debezium.parse import Parser
from raypipe.sources.debezium.position import Position
from raypipe.sources.debezium.shape import Shape, Style, columns_of, of_embedded, of_header, of_values
from raypipe.sources.debezium.tail import aligned
from raypipe.sources.debezium.topics import Topic, Topics, stamp_of
from raypipe.sources.debezium.transactions import Transactions

# Whether topics are still the same ones is asked again after so long.
_LOOK_AGAIN_S = 10.0
Offsets = Mapping[str, tuple[int, ...]]


class Reader:
    """Reads the topics of a source from given places on.

    Args:
        instance: Name of the source.
        address: Of the Kafka.
        topics: To ask.
        tables: To read.
        number: Pieces that were read before.
        transactions: Of the source, if its cuts lie between them.
    """

    def __init__(
        self,
        instance: str,
        address: Address,
        topics: Topics,
        tables: Sequence[Following],
        number: int,
        transactions: Transactions | None = None,
    ) -> None:
        self.tables = {each.topic: each for each in tables}
        self._instance = instance
        self._address = address
        self._topics = topics
        self._number = number
        self._transactions = transactions
        self._gatherer = Plain(self.tables) if transactions is None else Whole(self.tables, transactions)
        self._fetcher = Fetcher(topics)
        self._parser = Parser()
        self._parking = Parking(instance)
        self._torn = False
        self._looked = time.monotonic()

    @property
    def position(self) -> Position:
        """Where the reader stands; tables whose load has yet to begin are not there."""
        return Position(
            number=self._number,
            places={each.table: each.place for each in self.tables.values() if not each.restart},
            transactions=None if self._transactions is None else self._transactions.parts(),
        )

    def close(self) -> None:
        """Ends the consumer; idempotent."""
        self._parser.close()
        self._fetcher.close()

    def next_piece(self, max_bytes: int, limit: Position | None) -> Piece | None:
        """The next piece, None if there is nothing new.

        Raises:
            SourceGap: messages or a topic are gone.
            SchemaMismatch: a message does not fit its table.
            Unavailable: no answer.
        """
        while True:
            counts = self._counts()
            self._look(counts)
            ends = self._topics.ends(counts)
            self._require_growth(ends)
            begun = self._begin_loads(counts, ends)
            target = {topic: self._limited(topic, ends[topic], limit) for topic in counts}
            found, reached = self._gather(max_bytes, target, limit)
            for topic in [topic for topic in found.parts if self.tables[topic].restart]:
                del found.parts[topic]  # it is told again, from its beginning
            boundary = (reached and limit is not None) or self._gatherer.boundary(ends)
            arrived = (reached and limit is not None) or (self._torn and boundary)
            arrived |= any(each.loaded for each in self.tables.values())
            if found.parts or begun or arrived:
                self._torn = not boundary
                return self._piece(found, begun, ends, boundary)
            if not any(each.restart for each in self.tables.values()):
                return None

    def wait(self, timeout_s: float) -> None:
        """Returns when a message came, at the latest after the timeout."""
        if any(each.restart or each.loaded for each in self.tables.values()):
            return
        if not self._fetcher.assigned:
            self._assign()
        self._fetcher.wait(timeout_s)

    # What is there

    def _counts(self) -> dict[str, int]:
        """Partitions of each topic."""
        counts = {topic: len(each.at) for topic, each in self.tables.items()}
        return counts if self._transactions is None else counts | {self._transactions.topic: 1}

    def _look(self, counts: Mapping[str, int]) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_AGAIN_S:
            return
        found = self._topics.describe(list(counts))
        for each in self.tables.values():
            require_same(each.topic, each.id, len(each.at), found.get(each.topic))
        if (one := self._transactions) is not None:
            require_same(one.topic, one.id, 1, found.get(one.topic))
        self._looked = now

    def _require_growth(self, ends: Mapping[str, Sequence[int]]) -> None:
        for each in self.tables.values():
            if not each.restart and any(at > end for at, end in zip(each.fetched, ends[each.topic], strict=True)):
                raise gap(each.topic, "it ends before that position, so it is another topic or an older copy")

    def _limited(self, topic: str, end: tuple[int, ...], limit: Position | None) -> tuple[int, ...]:
        if limit is None:
            return end
        if topic not in self.tables:
            return end if limit.transactions is None else (min(end[0], int(limit.transactions["at"])),)
        place = limit.places.get(self.tables[topic].table)
        return end if place is None else tuple(min(pair) for pair in zip(end, place.at, strict=True))

    # Loads

    def _begin_loads(self, counts: Mapping[str, int], ends: Offsets) -> list[str]:
        begun = [topic for topic, each in self.tables.items() if each.restart]
        if begun:
            begins = self._topics.begins({topic: counts[topic] for topic in begun})
            for topic in begun:
                each = self.tables[topic]
                each.begin(begins[topic], self._aligned(each, begins[topic], ends[topic]))
        if begun or not self._fetcher.assigned:
            self._assign()
        return begun

    def _end_loads(self) -> bool:
        """Whether there are loads that have come to their ends."""
        found = [each for each in self.tables.values() if each.loaded]
        for each in found:
            each.until = None
        return bool(found)

    def _aligned(self, each: Following, begins: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
        """Where what belongs to told transactions ends."""
        if self._transactions is None:
            return ends
        return aligned(self._topics, self._parser, each.format, begins, ends, self._transactions.lsn)

    # Fetching

    def _assign(self) -> None:
        """Has every partition fetched from what is not there yet."""
        offsets = {(each.topic, n): at for each in self.tables.values() for n, at in enumerate(each.fetched)}
        if self._transactions is not None:
            offsets[self._transactions.topic, 0] = self._transactions.fetched
        self._fetcher.assign(offsets)

    def _gather(
        self, max_bytes: int, target: Mapping[str, Sequence[int]], limit: Position | None
    ) -> tuple[Gathered, bool]:
        """Messages up to the target, until there is enough of them; and whether the target was reached by that."""
        found, exact = Gathered(), limit is not None
        behind = any(True for _ in self._gatherer.left(target))
        self._fetcher.begin()
        while True:
            more = self._gatherer.take(found, max_bytes, target, exact)
            if self._gatherer.advance(target, limit):
                continue
            left = list(self._gatherer.left(target))
            if not left or found.size >= max_bytes:
                return found, not left and (behind or found.count > 0)
            if not more:
                self._fetcher.pause(self._gatherer.paused())
                for run in self._fetcher.runs(left):
                    self._add(run)

    def _add(self, run: Run) -> None:
        topic, _ = run.key
        if self._transactions is not None and topic == self._transactions.topic:
            self._transactions.add(run.messages, run.end, self._parser.connection)
            return
        each = self.tables.get(topic)
        if each is None or each.restart:
            return
        payloads, schemas = each.peeler.peel(pa.array(list(map(Message.value, run.messages)), pa.binary()))
        if self._grows(each, run.messages, payloads, schemas):
            each.restart = True
            each.forget()
            return
        each.add(run, payloads, self._parser)

    # Shapes that change

    def _grows(
        self, each: Following, messages: Sequence[Message], payloads: pa.Array, schemas: Sequence[tuple[int, bytes]]
    ) -> bool:
        """Takes on a newer shape; whether there is one that the table's rows need to be read again for."""
        newer = self._newest(each, messages, payloads, schemas) if messages else None
        if newer is None:
            return False
        newer = newer.as_text(chosen_as_text(self._address, each.table))
        if not outgrown(each.shape, newer):
            return False
        each.shape, each.version = merged(each.shape, newer), each.version + 1
        return True

    def _newest(
        self, each: Following, messages: Sequence[Message], payloads: pa.Array, schemas: Sequence[tuple[int, bytes]]
    ) -> Shape | None:
        if each.shape.style is Style.RAYPIPE:
            told = ((header, message) for message in reversed(messages) if (header := header_of(message)) is not None)
            newest = next(told, None)
            return None if newest is None else of_header(newest[0], stamp_of(newest[1]))
        if each.shape.style is Style.EMBEDDED:
            shapes = [
                of_embedded(each.peeler.schemas[prefix] or {}, each.shape.key, stamp_of(messages[first]))
                for first, prefix in schemas
            ]
            known = [shape for shape in shapes if shape is not None]
            return max(known, key=lambda shape: shape.seen_ms, default=None)
        rows = np.flatnonzero(payloads.is_valid().to_numpy(zero_copy_only=False))
        if not len(rows):
            return None
        last, names = payloads[int(rows[-1])].as_py(), {one.name for one in each.shape.fields}
        if columns_of(last) <= names:
            return None
        shape = of_values([last], each.shape.key, each.topic, stamp_of(messages[int(rows[-1])]))
        if shape is None:
            return None
        # Values alone say what is new, and nothing about the type of what is known.
        fields = tuple(one for one in shape.fields if one.name not in names)
        return Shape(style=Style.PLAIN, fields=fields, key=shape.key, seen_ms=shape.seen_ms) if fields else None

    # Pieces

    def _piece(self, found: Gathered, begun: Sequence[str], ends: Mapping[str, Sequence[int]], boundary: bool) -> Piece:
        self._number += 1
        batches, parked = self._parking.emptied(self.tables, found, begun, self._number)
        for topic, each in self.tables.items():
            if each.restart:
                continue
            schema = each.shape.schema(
                self._address.name(self._instance, each.table), each.version, key_only=not self._address.whole_before
            )
            if topic in begun:
                batches.append(_truncate(schema, self._number))
            if topic in found.parts:
                told = changes(
                    Table(
                        format=each.format,
                        schema=schema,
                        until=each.until,
                        emptied=topic in begun,
                        partitions=len(each.at),
                        deleted=each.deleted,
                    ),
                    found.taken(topic),
                    self._number,
                )
                each.deleted = told.deleted
                added, more = self._parking.fitting(each, told)
                batches += added
                parked += more
        self._end_loads()
        return Piece(
            batches=tuple(_joined(batches)),
            position=self.position.to_text(),
            boundary=boundary,
            loading=tuple(
                f"{self._instance}.{each.table.rpartition('.')[2]}"
                for each in self.tables.values()
                if each.until is not None or each.restart
            ),
            pending=sum(
                max(0, end - at)
                for topic, each in self.tables.items()
                for at, end in zip(each.at, ends[topic], strict=True)
            ),
            parked=parked,
        )


def require_same(topic: str, id_: str, partitions: int, there: Topic | None) -> None:
    """Checks that a topic is the one that was read, with as many partitions.

    Raises:
        SourceGap: it is not.
    """
    if there is None:
        raise gap(topic, "the topic is gone")
    if there.id != id_:
        raise gap(topic, "the topic was deleted and made anew, or it is that of another Kafka")
    if there.partitions != partitions:
        raise gap(topic, "partitions were added, so that changes of one key may lie in two of them, in no known order")


def _truncate(schema: TableSchema, number: int) -> ChangeBatch:
    arrow = ChangeBatch.arrow_schema(schema)
    row = dict.fromkeys(arrow.names) | {OP: Op.TRUNCATE, IMAGE: Image.FULL, COMMIT: number, ORDINAL: 0}
    return ChangeBatch(schema=schema, rows=pa.RecordBatch.from_pylist([row], schema=arrow))


def _joined(batches: Sequence[ChangeBatch]) -> list[ChangeBatch]:
    """One batch for each table: the TRUNCATE that begins its load, and what follows."""
    tables: dict[str, list[ChangeBatch]] = {}
    for batch in batches:
        tables.setdefault(str(batch.schema.table), []).append(batch)
    return [
        parts[0]
        if len(parts) == 1
        else ChangeBatch(
            schema=parts[0].schema,
            rows=pa.Table.from_batches([part.rows for part in parts]).combine_chunks().to_batches()[0],
        )
        for parts in tables.values()
    ]
