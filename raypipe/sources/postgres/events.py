"""What a logical replication stream says, in order: long runs of rows as columns, everything rare as one value each.

Formats: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
LSNs are integers. Times are microseconds since 1970, UTC, by the server's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.sources.postgres.frames import Bytes, Places

Numbers = npt.NDArray[Any]

INSERT, UPDATE, DELETE = b"IUD"


@dataclass(frozen=True, kw_only=True)
class Transactions:
    """The transactions that a run of rows belongs to, by column, in commit order.

    Attributes:
        xid: Of each.
        final_lsn: Where its commit (or prepare) record is.
        time_us: When it committed (or was prepared).
        end_lsn: Where its end is; 0 as long as the commit was not seen in this run.
        end_row: How many rows of the run come before its end.
        continued: Whether the first began before this run.
        origins: Names of replication origins by number of transaction, for those that have one.
    """

    xid: Numbers
    final_lsn: Places
    time_us: Places
    end_lsn: Places
    end_row: Places
    continued: bool
    origins: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A run of inserts, updates and deletes of any relations and of one or many transactions, in order.

    A run without rows tells the ends of empty transactions.

    Attributes:
        buffer: That holds the messages; of the gulp.
        at: Where the tuples of each row's message begin: at the byte K, O or N.
        end: Where each message ends.
        op: ``I``, ``U`` or ``D``, as bytes.
        oid: The relation of each.
        transaction: Number of its transaction in ``transactions``, from 0.
        ordinal: Number of the row in its transaction, from 0, counted over gulps; a truncated table counts as a row,
            and so does a transactional message.
        transactions: All that began, went on or ended in this run.
        streamed_xid: Of the transaction, when it is sent in progress: nothing of it may be seen before its commit.
        subxid: Then, the subtransaction of each row.
        bytes: Of the messages.
    """

    buffer: Bytes
    at: Places
    end: Places
    op: Numbers
    oid: Numbers
    transaction: Places
    ordinal: Places
    transactions: Transactions
    streamed_xid: int | None = None
    subxid: Numbers | None = None
    bytes: int = 0

    def __len__(self) -> int:
        return len(self.at)

    def slice(self, first: int, last: int) -> Rows:
        """Rows ``first`` to ``last`` (not included); transactions keep their numbers, ``end_row`` counts anew."""
        transactions = self.transactions
        return Rows(
            buffer=self.buffer,
            at=self.at[first:last],
            end=self.end[first:last],
            op=self.op[first:last],
            oid=self.oid[first:last],
            transaction=self.transaction[first:last],
            ordinal=self.ordinal[first:last],
            transactions=Transactions(
                xid=transactions.xid,
                final_lsn=transactions.final_lsn,
                time_us=transactions.time_us,
                end_lsn=np.where(transactions.end_row <= last, transactions.end_lsn, 0),
                end_row=np.clip(transactions.end_row, first, last) - first,
                continued=transactions.continued,
                origins=transactions.origins,
            ),
            streamed_xid=self.streamed_xid,
            subxid=None if self.subxid is None else self.subxid[first:last],
            bytes=int((self.end[first:last] - self.at[first:last]).sum()),
        )


@dataclass(frozen=True, kw_only=True)
class RelationColumn:
    """A column as a Relation message tells it; ``in_identity`` if old tuples hold it."""

    name: str
    type_oid: int
    typmod: int
    in_identity: bool


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A published table's shape from here on. ``identity``: d(efault), f(ull), i(ndex) or n(othing)."""

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[RelationColumn, ...]
    xid: int | None = None


@dataclass(frozen=True, kw_only=True)
class TypeName:
    """The name of a type that is not built in; sent before the first Relation that uses it."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Truncate:
    """Tables emptied together; ``transaction`` of them all is the one open, and the first has this ordinal."""

    oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool
    ordinal: int
    final_lsn: int
    time_us: int
    xid: int


@dataclass(frozen=True, kw_only=True)
class Message:
    """A logical message (``pg_logical_emit_message``). A transactional one has a place in its transaction, as a row."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes
    xid: int | None = None
    ordinal: int = 0
    final_lsn: int = 0
    time_us: int = 0


@dataclass(frozen=True, kw_only=True)
class Keepalive:
    """The server has sent everything up to ``end_lsn``; the last of a gulp, asking for a reply if any of them did."""

    end_lsn: int
    reply_requested: bool
    time_us: int


@dataclass(frozen=True, kw_only=True)
class StreamStart:
    """What follows is of a transaction in progress."""

    xid: int
    first: bool


@dataclass(frozen=True, kw_only=True)
class StreamStop:
    """What follows is not any more."""


@dataclass(frozen=True, kw_only=True)
class StreamCommit:
    """A transaction that was sent in progress has committed, and takes its place in the order here."""

    xid: int
    commit_lsn: int
    end_lsn: int
    time_us: int


@dataclass(frozen=True, kw_only=True)
class StreamAbort:
    """A transaction that was sent in progress, or a subtransaction of it, was rolled back."""

    xid: int
    subxid: int
    abort_lsn: int
    time_us: int


@dataclass(frozen=True, kw_only=True)
class BeginPrepare:
    """The rows that follow are of a transaction that is prepared, not committed."""

    prepare_lsn: int
    end_lsn: int
    time_us: int
    xid: int
    gid: str


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """It ends; its fate comes later. ``streamed`` if it was sent in progress."""

    prepare_lsn: int
    end_lsn: int
    time_us: int
    xid: int
    gid: str
    streamed: bool


@dataclass(frozen=True, kw_only=True)
class CommitPrepared:
    """A prepared transaction has committed."""

    commit_lsn: int
    end_lsn: int
    time_us: int
    xid: int
    gid: str


@dataclass(frozen=True, kw_only=True)
class RollbackPrepared:
    """A prepared transaction was rolled back."""

    prepare_end_lsn: int
    rollback_end_lsn: int
    prepare_time_us: int
    time_us: int
    xid: int
    gid: str


Event = (
    Rows
    | Relation
    | TypeName
    | Truncate
    | Message
    | Keepalive
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
    | BeginPrepare
    | Prepare
    | CommitPrepared
    | RollbackPrepared
)
