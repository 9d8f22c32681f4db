"""What goes into a piece: plainly as much as there is, or by Debezium's transaction topic whole transactions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from raypipe.errors import SchemaMismatch
from raypipe.sources.debezium.fetch import Key
from raypipe.sources.debezium.following import Following, numbered
from raypipe.sources.debezium.images import Taken
from raypipe.sources.debezium.parse import Phase
from raypipe.sources.debezium.position import Position
from raypipe.sources.debezium.transactions import Ends, Transactions, belonging, first_of, in_snapshot

# No partition's share of a piece is less: a piece of many tables would be cut into crumbs.
_SHARE_BYTES = 64 << 10
# Of what waits for the rest of its transactions; a larger transaction is told in parts, with no cut between them.
_WAITING_BYTES = 8 << 20
# Rows of a snapshot are followed by its last one, or by the end of a transaction; after this time without either it is
# over: its last row may be one of a table that nobody reads.
_SNAPSHOT_ENDS_S = 10.0
# Changes that Debezium counted and that are nowhere to be found after this time were taken out on their way, by a
# transform or by compaction.
_COMPLETE_S = 10.0

Limits = Mapping[str, Sequence[int]]


@dataclass(kw_only=True)
class Gathered:
    """What a piece holds.

    Attributes:
        parts: By topic, (partition, messages, place of the first) in order.
        size: Bytes of the messages.
        count: Of the messages.
    """

    parts: dict[str, list[tuple[int, pa.Table, int]]] = field(default_factory=dict)
    size: int = 0
    count: int = 0

    def add(self, topic: str, number: int, rows: pa.Table) -> None:
        """Messages of a partition, behind those that are there."""
        self.size += int(rows.column("size").to_numpy().sum())
        if rows.num_rows:
            self.parts.setdefault(topic, []).append((number, rows, self.count))
            self.count += rows.num_rows

    def taken(self, topic: str) -> Taken:
        """All of a topic."""
        parts = self.parts[topic]
        return Taken(
            rows=pa.concat_tables([rows for _, rows, _ in parts]).combine_chunks(),
            partitions=np.concatenate([np.full(rows.num_rows, number) for number, rows, _ in parts]),
            # The first place in a piece is its tables' TRUNCATE.
            places=np.concatenate([np.arange(rows.num_rows) + place + 1 for _, rows, place in parts]),
        )


class Plain:
    """Messages as they come: a piece ends where the reader stops to fetch, on no boundary of the source's."""

    def __init__(self, tables: Mapping[str, Following]) -> None:
        self._tables = tables

    def take(self, into: Gathered, most_bytes: int, target: Limits, exact: bool) -> bool:
        """Takes what was fetched; whether there was something.

        Args:
            into: What it is added to.
            most_bytes: Of it, about.
            target: Ends of the partitions.
            exact: None beyond the target.
        """
        before = into.count
        left = list(self.left(target))
        for topic, number in left:
            share = max(_SHARE_BYTES, (most_bytes - into.size) // len(left))
            if into.size < most_bytes:
                end = target[topic][number] if exact else None
                for rows in self._tables[topic].take(number, end, share, None):
                    into.add(topic, number, rows)
        return into.count > before

    def left(self, target: Limits) -> Iterator[Key]:
        """Partitions that were not told up to the target."""
        for topic, each in self._tables.items():
            for number, (at, end) in enumerate(zip(each.at, target[topic], strict=True)):
                if at < end and not each.restart:
                    yield topic, number

    def paused(self) -> list[Key]:
        """Partitions that enough was fetched of."""
        return []

    def boundary(self, ends: Limits) -> bool:
        """Whether a cut may follow."""
        del ends
        return True

    def advance(self, target: Limits, limit: Position | None) -> bool:
        """Whether more may be told than could before."""
        del target, limit
        return False


class Whole(Plain):
    """Whole transactions. While a table is loaded the others stand still, so that its load ends where they are.

    Args:
        tables: That are read.
        transactions: Of their source.
    """

    def __init__(self, tables: Mapping[str, Following], transactions: Transactions) -> None:
        super().__init__(tables)
        self.transactions = transactions
        self._through: tuple[int, int] | None = None
        self._snapshot_at = time.monotonic()
        self._awaited = (-1, 0.0)
        self._settling: Limits | None = None

    def take(self, into: Gathered, most_bytes: int, target: Limits, exact: bool) -> bool:
        """See ``Plain``; of loaded tables only what belongs to transactions that are told."""
        before = into.count
        allowed = partial(belonging, lsn=self.transactions.lsn, through=self._through)
        for topic, each in self._tables.items():
            if each.restart:
                continue
            for number in range(len(each.at)):
                if each.until is not None and each.at[number] < each.until[number]:
                    end = min(each.until[number], target[topic][number]) if exact else each.until[number]
                    if into.size < most_bytes:
                        self._add(into, each, number, each.take(number, end, most_bytes - into.size, None))
                else:
                    end_ = target[topic][number] if exact else None
                    self._add(into, each, number, each.take(number, end_, None, allowed))
        return into.count > before

    def _add(self, into: Gathered, each: Following, number: int, parts: Sequence[pa.Table]) -> None:
        transactions = self.transactions
        for rows in parts:
            into.add(each.topic, number, rows)
            if each.until is None:
                _require_numbered(each.topic, rows)
            snapshot, last = in_snapshot(rows)
            if snapshot:
                transactions.snapshot, self._snapshot_at = not last, time.monotonic()
                self._settling = {} if last else None
            if self._through is not None:
                mine = rows.column("tx").fill_null(-1).to_numpy() == self._through[1]
                transactions.have[each.topic] = transactions.have.get(each.topic, 0) + int(mine.sum())

    def left(self, target: Limits) -> Iterator[Key]:
        """See ``Plain``; partitions that were not fetched up to the target."""
        enough = self.paused()
        for topic, each in self._tables.items():
            for number, (fetched, end) in enumerate(zip(each.fetched, target[topic], strict=True)):
                if fetched < end and not each.restart and (topic, number) not in enough:
                    yield topic, number
        if self.transactions.fetched < target[self.transactions.topic][0]:
            yield self.transactions.topic, 0

    def paused(self) -> list[Key]:
        """See ``Plain``."""
        return [
            (topic, number)
            for topic, each in self._tables.items()
            for number, size in enumerate(each.waiting_bytes)
            if size > 2 * _WAITING_BYTES
        ]

    def advance(self, target: Limits, limit: Position | None) -> bool:
        """See ``Plain``: the next transactions that are there; or a part of one too large to wait for."""
        if any(each.until is not None or each.restart for each in self._tables.values()):
            return False  # a load ends where the transactions stand
        upto = None
        if limit is not None and limit.transactions is not None:
            upto = int(limit.transactions["at"])
        transactions = self.transactions
        ends = transactions.waiting(upto)
        if ends is not None:
            for count in _fewer(len(ends)):
                if self._there(ends, count) or (count == 1 and self._overdue(ends, target)):
                    transactions.tell(ends, count)
                    self._through = None
                    if transactions.snapshot:
                        transactions.snapshot, self._settling = False, {}
                    return True
        return self._open_large()

    def _there(self, ends: Ends, count: int) -> bool:
        """Whether all changes of the first transactions were fetched."""
        allowed = partial(belonging, lsn=int(ends.lsn[count - 1]))
        expected = self.transactions.expected(ends, count)
        for topic, each in self._tables.items():
            if expected[topic] <= 0:
                continue
            found = [each.ready(number, allowed) for number in range(len(each.at))]
            # Fewer than Debezium counted are all there are if each partition goes on with a later one: compaction.
            if sum(number for number, _ in found) < expected[topic] and not all(beyond for _, beyond in found):
                return False
        return True

    def _overdue(self, ends: Ends, target: Limits) -> bool:
        """Whether nothing more comes of the first transaction: something takes messages out on their way."""
        first, now = int(ends.offsets[0]), time.monotonic()
        if self._awaited[0] != first:
            self._awaited = (first, now)
        fetched = all(
            at >= end
            for topic, each in self._tables.items()
            for at, end in zip(each.fetched, target[topic], strict=True)
        )
        return fetched and now - self._awaited[1] > _COMPLETE_S

    def _open_large(self) -> bool:
        """Tells what there is of a transaction that fills the memory for what waits."""
        if self._through is not None:
            return False
        waiting = [
            (first_of(chunks[0]), size)
            for each in self._tables.values()
            for chunks, size in zip(each.waiting, each.waiting_bytes, strict=True)
            if chunks and numbered(chunks[0])[0]
        ]
        if sum(size for _, size in waiting) <= _WAITING_BYTES:
            return False
        self._through = min(place for place, _ in waiting)
        if self.transactions.open != self._through[1]:
            self.transactions.open, self.transactions.have = self._through[1], {}
        return True

    def boundary(self, ends: Limits) -> bool:
        """See ``Plain``."""
        transactions = self.transactions
        if all((each.until is not None and not each.loaded) or each.restart for each in self._tables.values()):
            return True
        if transactions.open is not None:
            return False
        if transactions.snapshot:
            if time.monotonic() - self._snapshot_at < _SNAPSHOT_ENDS_S:
                return False
            transactions.snapshot, self._settling = False, {}
        if self._settling is not None:
            # Of the snapshot there may be more in other topics, up to where they end now.
            self._settling = self._settling or ends
            allowed = partial(belonging, lsn=transactions.lsn)
            for topic, each in self._tables.items():
                for number, (at, end) in enumerate(zip(each.at, self._settling[topic], strict=True)):
                    if at < end and not each.ready(number, allowed)[1]:
                        return False
            self._settling = None
        return True


def _require_numbered(topic: str, rows: pa.Table) -> None:
    """Checks that changes say which transaction they are of.

    Raises:
        SchemaMismatch: one does not.
    """
    if ((rows.column("phase").to_numpy() == Phase.STREAM) & ~numbered(rows)).any():
        raise SchemaMismatch(
            f"Changes in topic {topic} do not say which transaction they are of.",
            remedy=(
                "Have the connector tell them (provide.transaction.metadata=true), or leave the option transactions out"
                " of the source's URL; a cut may then hold a part of a transaction."
            ),
            topic=topic,
        )


def _fewer(count: int) -> Iterator[int]:
    """How many to try: all, all but the last, and then half as many again and again, down to one."""
    yield count
    if count > 1:
        yield count - 1
    left = count // 2
    while 1 <= left < count - 1:
        yield left
        left //= 2
