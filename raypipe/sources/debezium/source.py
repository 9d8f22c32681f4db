"""A source over topics: checks and waiting around a reader of messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from raypipe.contracts import Piece, SourceView
from raypipe.errors import InvariantBroken, SchemaMismatch
from raypipe.model import TableSchema
from raypipe.sources.debezium.address import parse_address, require_distinct
from raypipe.sources.debezium.failures import gap
from raypipe.sources.debezium.following import Following
from raypipe.sources.debezium.learn import learn
from raypipe.sources.debezium.parse import Format, Parser
from raypipe.sources.debezium.position import Place, Position
from raypipe.sources.debezium.reader import Reader, require_same
from raypipe.sources.debezium.tail import aligned, newest_transactions
from raypipe.sources.debezium.topics import Topic, Topics
from raypipe.sources.debezium.transactions import Transactions
from raypipe.sources.debezium.view import DebeziumView


class DebeziumSource:
    """Topics that Debezium wrote, one for each table; see ``raypipe.contracts.Source``.

    Args:
        instance: Name.
        url: ``kafka://host:port?prefix=…``.
        tables: To read, as ``table`` or ``schema.table``: what follows the prefix in the names of their topics.
    """

    def __init__(self, instance: str, url: str, tables: Sequence[str]) -> None:
        self.instance = instance
        self._address = parse_address(url)
        self._tables = tuple(sorted(set(tables)))
        require_distinct(instance, self._tables)
        self._topics = Topics(self._address, instance)
        self._parser = Parser()
        self._reader: Reader | None = None

    def tables(self) -> tuple[TableSchema, ...]:
        """See ``raypipe.contracts.Source``; looks at some messages of each topic."""
        try:
            return tuple(
                place.shape.schema(self._address.name(self.instance, table), 1, key_only=not self._address.whole_before)
                for table, place in self._newest().places.items()
            )
        finally:
            self._topics.close()

    def install(self) -> None:
        """See ``raypipe.contracts.Source``: Debezium was installed by somebody else, and a topic needs nothing more."""
        try:
            self._found()
        finally:
            self._topics.close()

    def remove(self) -> None:
        """See ``raypipe.contracts.Source``: nothing was put in."""

    def _newest(self) -> Position:
        """The ends of all topics, and what the tables look like there."""
        found = self._found()
        counts = {topic: there.partitions for topic, there in found.items()}
        transactions = self._newest_transactions(found)
        ends, begins = self._topics.ends(counts), self._topics.begins(counts)
        places = {}
        for table in self._tables:
            topic = self._address.topic(table)
            shape = learn(self._topics, self._address, table, begins[topic], ends[topic])
            at = ends[topic]
            if transactions is not None:
                format_ = Format(topic=topic, shape=shape, whole_before=self._address.whole_before)
                at = aligned(self._topics, self._parser, format_, begins[topic], at, transactions.lsn)
            places[table] = Place(id=found[topic].id, at=at, shape=shape)
        return Position(places=places, transactions=None if transactions is None else transactions.parts())

    def _newest_transactions(self, found: Mapping[str, Topic]) -> Transactions | None:
        topic = self._address.transactions
        if topic is None:
            return None
        (begin,), (end,) = (ask({topic: 1})[topic] for ask in (self._topics.begins, self._topics.ends))
        tables = self._address.collections(self._tables)
        return newest_transactions(self._topics, self._parser, topic, found[topic].id, tables, begin, end)

    def _found(self) -> dict[str, Topic]:
        topics = [self._address.topic(table) for table in self._tables]
        found = self._topics.require([*topics, *filter(None, [self._address.transactions])])
        if self._address.transactions is not None:
            require_one_partition(self._address.transactions, found[self._address.transactions])
        return found

    @contextmanager
    def view(self) -> Iterator[SourceView]:
        """See ``raypipe.contracts.Source``: the ends are fixed now, the messages are read when rows are asked for."""
        topics = Topics(self._address, self.instance)
        position = self._newest()
        readers = {
            f"{self.instance}.{table.rpartition('.')[2]}": Reader(
                self.instance, self._address, topics, [self._beginning(self._address.topic(table), table, place)], 0
            )
            for table, place in position.places.items()
        }
        try:
            yield DebeziumView(self.instance, position, readers)
        finally:
            for reader in readers.values():
                reader.close()
            topics.close()

    def open(self, position: str | None, reload: Collection[str] = ()) -> None:
        """See ``raypipe.contracts.Source``; None begins at the beginning of the topics."""
        self.close()
        stands = Position() if position is None else Position.parse(position)
        found = self._found()
        known = {
            table: place
            for table, place in stands.places.items()
            if table in self._tables and f"{self.instance}.{table.rpartition('.')[2]}" not in reload
        }
        counts = {topic: there.partitions for topic, there in found.items()}
        begins, ends = self._topics.begins(counts), self._topics.ends(counts)
        tables = []
        for table in self._tables:
            topic = self._address.topic(table)
            place = stands.places.get(table)
            if place is not None:
                require_same(topic, place.id, len(place.at), found[topic])
            if place is not None and table in known:
                _require_kept(topic, place.at, begins[topic], ends[topic])
                tables.append(self._following(topic, table, place))
                continue
            shape = learn(self._topics, self._address, table, begins[topic], ends[topic])
            version = 1 if place is None else place.version + (not shape.says_the_same(place.shape))
            parked = None if place is None else place.parked
            fresh = Place(id=found[topic].id, at=begins[topic], shape=shape, version=version, parked=parked)
            tables.append(self._beginning(topic, table, fresh))
        self._reader = Reader(
            self.instance, self._address, self._topics, tables, stands.number, self._transactions(stands, found)
        )

    def _transactions(self, stands: Position, found: Mapping[str, Topic]) -> Transactions | None:
        """Where the source stands among its transactions, if cuts are to lie between them."""
        topic = self._address.transactions
        if topic is None:
            return None
        if stands.transactions is None or stands.transactions["topic"] != topic:
            return self._newest_transactions(found)
        transactions = Transactions.of_parts(stands.transactions, self._address.collections(self._tables))
        require_same(topic, transactions.id, 1, found[topic])
        begins, ends = self._topics.begins({topic: 1}), self._topics.ends({topic: 1})
        _require_kept(topic, (transactions.at,), begins[topic], ends[topic])
        return transactions

    def poll(self, max_bytes: int, upto: str | None = None) -> Piece | None:
        """See ``raypipe.contracts.Source``; every piece ends on a boundary, of each table by itself."""
        reader = self._require_open()
        limit = None if upto is None else Position.parse(upto)
        try:
            return reader.next_piece(max_bytes, limit)
        except BaseException:
            self.close()  # whatever was half read is read again from the log's position
            raise

    def wait(self, timeout_s: float) -> bool:
        """See ``raypipe.contracts.Source``; the next message ends the wait."""
        self._require_open().wait(timeout_s)
        return True

    def tears(self) -> str | None:
        """See ``raypipe.contracts.MayTear``."""
        if self._address.transactions is not None or len(self._tables) == 1:
            return None
        return (
            "a cut may hold a part of a transaction that changed several tables, for nothing in their topics says which"
            " changes belong together; let Debezium write them (provide.transaction.metadata=true) and name its"
            " transaction topic in the source's URL (transactions=…)"
        )

    def acknowledge(self, position: str) -> None:
        """See ``raypipe.contracts.Source``: the topics are others', who decide how long to keep them."""

    def progress(self) -> Mapping[str, float]:
        """See ``raypipe.contracts.Source``: offsets passed, of those that the load has to pass."""
        shares = {}
        for each in self._require_open().tables.values():
            if each.restart or each.until is not None:
                until = sum(each.until or ())
                share = min(1.0, sum(each.at) / until) if until and not each.restart else 0.0
                shares[f"{self.instance}.{each.table.rpartition('.')[2]}"] = share
        return shares

    def close(self) -> None:
        """See ``raypipe.contracts.Source``."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()
        self._parser.close()
        self._topics.close()

    def _following(self, topic: str, table: str, place: Place) -> Following:
        return Following(
            table=table,
            topic=topic,
            id=place.id,
            at=list(place.at),
            shape=place.shape,
            whole_before=self._address.whole_before,
            version=place.version,
            until=place.until,
            deleted=dict(place.deleted),
            seen=list(place.seen),
            parked=place.parked,
        )

    def _beginning(self, topic: str, table: str, place: Place) -> Following:
        return Following(
            table=table,
            topic=topic,
            id=place.id,
            at=[0] * len(place.at),
            shape=place.shape,
            whole_before=self._address.whole_before,
            version=place.version,
            parked=place.parked,
            restart=True,
        )

    def _require_open(self) -> Reader:
        if self._reader is None:
            raise InvariantBroken(f"Source {self.instance!r} is not open.")
        return self._reader


def _require_kept(topic: str, stands: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> None:
    if any(at < begin for at, begin in zip(stands, begins, strict=True)):
        raise gap(topic, "messages that follow it were deleted, by a retention or by somebody")
    if any(at > end for at, end in zip(stands, ends, strict=True)):
        raise gap(topic, "it ends before that position, so it is another topic or an older copy")


def require_one_partition(topic: str, there: Topic) -> None:
    """Checks that a transaction topic tells of transactions in order.

    Raises:
        SchemaMismatch: it has several partitions.
    """
    if there.partitions != 1:
        raise SchemaMismatch(
            f"Topic {topic} has {there.partitions} partitions, so that the order of transactions cannot be told.",
            remedy="Have Debezium write it with one partition, or leave the option transactions out.",
            topic=topic,
        )
