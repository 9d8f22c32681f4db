"""Debezium's transaction topic: which changes of which tables make up a transaction, so that none is ever torn.

With ``provide.transaction.metadata`` Debezium writes at the end of each transaction how many changes of each table it
had. A piece takes what belongs to a row of transactions when all of that is there. A change says behind which
transaction its own one follows, so what belongs to the transactions up to one that ended at some place is what follows
behind a smaller place; the counts tell whether it is all there, or a later change of that partition does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message

from raypipe.errors import Corrupt, SchemaMismatch
from raypipe.sources.debezium.parse import Phase
from raypipe.sources.debezium.peel import Peeler

Numbers = npt.NDArray[np.int64]

_ENDS = (
    "SELECT place, TRY_CAST(split_part(read.id, ':', 1) AS BIGINT) AS tx,"
    " TRY_CAST(split_part(read.id, ':', 2) AS BIGINT) AS lsn, coalesce(read.ts_ms, 0) AS time_ms,"
    " read.data_collections AS tables"
    " FROM (SELECT place, from_json(value, '{"
    '"status":"VARCHAR","id":"VARCHAR","ts_ms":"BIGINT",'
    '"data_collections":[{"data_collection":"VARCHAR","event_count":"BIGINT"}]'
    "}') AS read FROM given) WHERE read.status = 'END' ORDER BY place"
)


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Transactions in the order in which they ended, each later in the stream than the one before.

    Attributes:
        offsets: Behind the message that says so.
        tx: Their numbers.
        lsn: Where they ended.
        time_ms: When.
        counts: Changes of each table that is read, a column for each.
    """

    offsets: Numbers
    tx: Numbers
    lsn: Numbers
    time_ms: Numbers
    counts: Numbers

    def __len__(self) -> int:
        return len(self.offsets)

    def picked(self, which: Any) -> Ends:
        """Some of them."""
        return Ends(
            offsets=self.offsets[which],
            tx=self.tx[which],
            lsn=self.lsn[which],
            time_ms=self.time_ms[which],
            counts=self.counts[which],
        )


@dataclass(kw_only=True)
class Transactions:
    """Where the reader of a source stands among its transactions.

    Attributes:
        topic: That tells of them.
        id: That Kafka gave it.
        tables: What the topic calls the tables that are read, by their topics.
        at: Offset behind the last transaction that was told.
        fetched: Offset of the next message to fetch.
        lsn: Where that transaction ended; -1 for none.
        time_ms: When.
        open: Number of a transaction that was told in part.
        have: Changes of it that were told, by topic.
        snapshot: Rows of a snapshot were told, and more may follow.
        ends: Those that wait to be told.
    """

    topic: str
    id: str
    tables: Mapping[str, str]
    at: int
    fetched: int = 0
    lsn: int = -1
    time_ms: int = 0
    open: int | None = None
    have: dict[str, int] = field(default_factory=dict)
    snapshot: bool = False
    ends: list[Ends] = field(default_factory=list)
    peeler: Peeler = field(default_factory=Peeler)

    def forget(self) -> None:
        """What was fetched and not told is to be fetched again."""
        self.fetched, self.ends = self.at, []

    def add(self, messages: Sequence[Message], end: int, connection: duckdb.DuckDBPyConnection) -> None:
        """Takes messages of the topic in."""
        if messages:
            found = ends_of(messages, self.tables, self.peeler, connection)
            highest = self.ends[-1].lsn[-1] if self.ends else self.lsn
            latest = max([self.time_ms, *(int(each.time_ms.max()) for each in self.ends)])
            # A restarted connector ends transactions again; a database restored elsewhere begins with lower places.
            before = np.maximum.accumulate(np.concatenate([[highest], found.lsn]))[:-1]
            earlier = np.maximum.accumulate(np.concatenate([[latest], found.time_ms]))[:-1]
            found = found.picked((found.lsn > before) | (found.time_ms > earlier))
            self.ends += [found] if len(found) else []
        self.fetched = max(self.fetched, end)

    def waiting(self, upto: int | None) -> Ends | None:
        """Transactions that wait, as far as one follows the other; None if there are none.

        Args:
            upto: Offset that none of them may reach; None for no such bound.
        """
        if not self.ends:
            return None
        if len(self.ends) > 1:
            self.ends = [Ends(**{name: np.concatenate([getattr(each, name) for each in self.ends]) for name in _NAMES})]
        (ends,) = self.ends
        if upto is not None:
            ends = ends.picked(ends.offsets <= upto)
        back = np.flatnonzero(np.diff(ends.lsn) < 0)
        ends = ends.picked(slice(0, int(back[0]) + 1)) if len(back) else ends
        return ends if len(ends) else None

    def tell(self, ends: Ends, count: int) -> None:
        """The first ``count`` of those that wait are told."""
        self.at, self.lsn, self.time_ms = (int(values[count - 1]) for values in (ends.offsets, ends.lsn, ends.time_ms))
        self.open, self.have = None, {}
        (all_,) = self.ends
        rest = all_.picked(slice(count, None))
        self.ends = [rest] if len(rest) else []

    def expected(self, ends: Ends, count: int) -> dict[str, int]:
        """Changes of the first ``count`` that are still to come, by topic."""
        sums = ends.counts[:count].sum(axis=0)
        have = self.have if self.open == int(ends.tx[0]) else {}
        return {topic: int(sums[n]) - have.get(topic, 0) for n, topic in enumerate(self.tables)}

    def parts(self) -> dict[str, Any]:
        """For JSON."""
        parts: dict[str, Any] = {
            "topic": self.topic,
            "id": self.id,
            "at": self.at,
            "lsn": self.lsn,
            "time": self.time_ms,
        }
        parts |= {"snapshot": True} if self.snapshot else {}
        return parts if self.open is None else parts | {"open": self.open, "have": self.have}

    @classmethod
    def of_parts(cls, parts: Mapping[str, Any], tables: Mapping[str, str]) -> Transactions:
        """Reads what ``parts`` gave."""
        found = cls(
            topic=parts["topic"],
            id=parts["id"],
            tables=tables,
            at=int(parts["at"]),
            lsn=int(parts["lsn"]),
            time_ms=int(parts["time"]),
            open=parts.get("open"),
            have=dict(parts.get("have", {})),
            snapshot=bool(parts.get("snapshot")),
        )
        found.forget()
        return found


_NAMES = ("offsets", "tx", "lsn", "time_ms", "counts")


def ends_of(
    messages: Sequence[Message], tables: Mapping[str, str], peeler: Peeler, connection: duckdb.DuckDBPyConnection
) -> Ends:
    """The ends of transactions among messages.

    Raises:
        Corrupt: a message is no JSON.
        SchemaMismatch: it is not PostgreSQL's transactions that it tells of.
    """
    payloads, _ = peeler.peel(pa.array(list(map(Message.value, messages)), pa.binary()))
    given = pa.table({"value": payloads.cast(pa.string()), "place": pa.array(np.arange(len(messages)))})
    connection.register("given", given)
    try:
        found = connection.sql(_ENDS).to_arrow_table().combine_chunks()
    except duckdb.Error as error:
        raise Corrupt(
            "A message of the transaction topic is no JSON.", cause=RuntimeError(type(error).__name__)
        ) from None
    finally:
        connection.unregister("given")
    if found.column("tx").null_count or found.column("lsn").null_count:
        raise SchemaMismatch(
            "The transaction topic is not that of a Debezium connector for PostgreSQL: transactions have other names.",
            remedy="Leave the option transactions out of the source's URL; a cut may then hold a part of one.",
        )
    offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages)) + 1
    counts = np.zeros((found.num_rows, len(tables)), np.int64)
    lists = found.column("tables").combine_chunks()
    parents, flat = np.asarray(lists.value_parent_indices(), np.int64), lists.flatten()
    names, events = flat.field("data_collection"), flat.field("event_count").fill_null(0).to_numpy()
    for column, name in enumerate(tables.values()):
        mine = pc.fill_null(pc.equal(names, name), False).to_numpy(zero_copy_only=False)
        np.add.at(counts[:, column], parents[mine], events[mine])
    return Ends(
        offsets=offsets[found.column("place").to_numpy()],
        tx=found.column("tx").to_numpy(),
        lsn=found.column("lsn").to_numpy(),
        time_ms=found.column("time_ms").to_numpy(),
        counts=counts,
    )


def belonging(chunk: pa.Table, lsn: int, through: tuple[int, int] | None = None) -> int:
    """How many messages of a chunk come before the first of a later transaction than the one that ended at ``lsn``.

    Args:
        chunk: As ``parse`` describes it.
        lsn: Where that transaction ended.
        through: Place (end of the transaction before, number) of a transaction that counts as well.
    """
    told = chunk.column("tx").is_valid().to_numpy()
    if not told.any():
        return int(chunk.num_rows)
    behind = chunk.column("behind").fill_null(-1).to_numpy()
    own = chunk.column("lsn").fill_null(0).to_numpy()
    later = told & np.where(behind >= 0, behind >= lsn, own >= lsn)
    if through is not None:
        tx = chunk.column("tx").fill_null(-1).to_numpy()
        later &= ~((behind == through[0]) & (tx == through[1]))
    found = np.flatnonzero(later)
    return int(found[0]) if len(found) else int(chunk.num_rows)


def first_of(chunk: pa.Table) -> tuple[int, int]:
    """Place of the transaction of a chunk's first message."""
    return int(chunk.column("behind")[0].as_py() or -1), int(chunk.column("tx")[0].as_py() or -1)


def in_snapshot(chunk: pa.Table) -> tuple[bool, bool]:
    """Whether there are rows of a snapshot among the messages, and whether its last one is."""
    phases = chunk.column("phase").to_numpy()
    return bool(np.isin(phases, (Phase.SNAPSHOT, Phase.LAST)).any()), bool((phases == Phase.LAST).any())
