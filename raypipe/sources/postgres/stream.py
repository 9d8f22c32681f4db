"""Follows a replication slot: starts it, hands out its events in order, tells the server how far we are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from raypipe.errors import RaypipeError, Unavailable
from raypipe.sources.postgres.address import Address
from raypipe.sources.postgres.connect import Session, literal, meaning, quoted
from raypipe.sources.postgres.events import (
    Event,
    Keepalive,
    Message,
    Relation,
    Rows,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
)
from raypipe.sources.postgres.gaps import read_slot
from raypipe.sources.postgres.pgoutput import Scanner
from raypipe.sources.postgres.position import lsn_text
from raypipe.sources.postgres.refusals import PostgresError
from raypipe.sources.postgres.spool import Spool
from raypipe.sources.postgres.wire import CopyStream, standby_status

# The server ends a connection that is silent for wal_sender_timeout; a word every ten seconds is heard in any setting.
STATUS_EVERY_S = 10.0
# A server ends the process that served a reader within milliseconds once it is told to.
TAKEOVER_S = 10.0
# One gulp is decoded while the server fills the next.
GULP_BYTES = 4 << 20


class Stream:
    """The changes behind a place in the write-ahead log. Used by one thread.

    Args:
        address: Of the database.
        lsn: Transactions that commit from here on are sent.
        replication: Connection to use; closed with the stream.
        session: For statements; used only here in the constructor.
    """

    def __init__(self, address: Address, lsn: int, replication: Session, session: Session) -> None:
        self._address = address
        self._replication = replication
        self._waiting: deque[Event] = deque()
        self._put_back: deque[Event] = deque()
        self._committed: Iterator[Event] = iter(())
        self._in_progress: int | None = None  # the transaction that is being sent before its commit
        self._spool = Spool() if address.streaming else None
        protocol = 2 if address.streaming else 1
        self._scanner = Scanner(protocol)
        self._flushed = lsn
        self._spoke_at = time.monotonic()
        release_slot(session, address)
        options = [
            f"proto_version '{protocol}'",
            f"publication_names {literal(quoted(address.publication))}",
            "messages 'true'",
            *(["streaming 'on'"] if address.streaming else []),
        ]
        sock, leftover = replication.begin_copy(
            f"START_REPLICATION SLOT {quoted(address.slot)} LOGICAL {lsn_text(lsn)} ({', '.join(options)})"
        )
        self._copy = CopyStream(sock, leftover=leftover)

    def next(self, timeout_s: float) -> Event | None:
        """The next event; None if none came in time. What it holds in memory is valid until the one after it.

        Raises:
            Unavailable: the connection or the server is gone.
        """
        while True:
            if self._put_back:
                return self._put_back.popleft()
            event = next(self._committed, None)
            if event is not None:
                return event
            if not self._waiting:
                self._receive(timeout_s)
            if not self._waiting:
                return None
            event = self._waiting.popleft()
            if self._spool is None or not self._kept(self._spool, event):
                return event

    def _kept(self, spool: Spool, event: Event) -> bool:
        """Whether an event is of a transaction in progress, or settles one; nobody else hears of it."""
        match event:
            case StreamStart():
                self._in_progress = event.xid
            case StreamStop():
                self._in_progress = None
            case StreamAbort():
                spool.undo(event)
            case StreamCommit():
                self._committed = spool.commit(event)
            case Rows() | Relation() | Truncate() | Message(transactional=True) if self._in_progress is not None:
                spool.keep(self._in_progress, event)
            case _:
                return self._in_progress is not None and not isinstance(event, Keepalive)
        return True

    def put_back(self, event: Event) -> None:
        """Makes an event, or what is left of it, the next one again."""
        self._put_back.appendleft(event)

    def wait(self, timeout_s: float) -> bool:
        """Waits for an event; tells whether there is one."""
        if not (self._waiting or self._put_back):
            self._receive(timeout_s)
        return bool(self._waiting or self._put_back)

    def acknowledge(self, lsn: int) -> None:
        """The server may forget what lies before."""
        if lsn > self._flushed:
            self._flushed = lsn
            self._tell()

    def ask(self) -> None:
        """Asks the server to say how far it has sent."""
        self._tell(asks_reply=True)

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self._replication.close()
        if self._spool is not None:
            self._spool.close()

    def _receive(self, timeout_s: float) -> None:
        try:
            gulp = self._copy.gulp(timeout_s, GULP_BYTES)
        except PostgresError as error:
            raise meaning(self._address, error.sqlstate, error.server_message, error) from error
        if gulp is not None:
            for event in self._scanner.scan(gulp):
                if getattr(event, "reply_requested", False):
                    self._tell()
                self._waiting.append(event)
        elif self._copy.finished:
            raise Unavailable(f"PostgreSQL {self._address} ended the stream of changes.")
        if time.monotonic() - self._spoke_at > STATUS_EVERY_S:
            self._tell()

    def _tell(self, *, asks_reply: bool = False) -> None:
        # "Written" too is what the log has: beyond it the server says by itself when it has sent everything.
        self._copy.send(
            standby_status(
                written_lsn=self._flushed,
                flushed_lsn=self._flushed,
                applied_lsn=self._flushed,
                unix_us=time.time_ns() // 1000,
                asks_reply=asks_reply,
            )
        )
        self._spoke_at = time.monotonic()


def release_slot(session: Session, address: Address) -> None:
    """Ends whatever reader of ours still holds the slot: the log has fenced it, and the server may not know yet.

    Raises:
        Unavailable: a program of another name holds it, or it does not let go.
    """
    deadline = time.monotonic() + TAKEOVER_S
    while True:
        slot = read_slot(session, address)
        if slot is None or slot.active_pid is None:
            return
        names = session.rows(f"SELECT application_name FROM pg_stat_activity WHERE pid = {slot.active_pid}")
        name = str(names[0][0]) if names else ""
        if names and not name.startswith("raypipe "):
            raise Unavailable(
                f"Replication slot {address.slot} is being read by another program ({name or 'without a name'}).",
                remedy="Stop it, or name a slot of your own in the source's URL: …?slot=NAME.",
            )
        if time.monotonic() > deadline:
            raise Unavailable(f"Replication slot {address.slot} is still held by an earlier reader.")
        try:
            session.run(f"SELECT pg_terminate_backend({slot.active_pid})")
        except RaypipeError as error:
            raise Unavailable(
                f"Replication slot {address.slot} is held by process {slot.active_pid}, which may not be ended.",
                remedy="Stop the other pipeline.",
                cause=error,
            ) from error
        time.sleep(0.02)
