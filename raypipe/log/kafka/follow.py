"""Follows the pipeline's own topics, so that the newest cut and the notes are known without asking."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from raypipe.errors import SourceGap, Unavailable
from raypipe.kafka.clients import ANSWER_S
from raypipe.kafka.errors import OUT_OF_RANGE, passing
from raypipe.log.kafka.clients import Clients
from raypipe.log.kafka.failures import damaged, explain, gap
from raypipe.log.kafka.fold import Base, Fold
from raypipe.log.kafka.history import History, Numbered
from raypipe.log.kafka.names import ControlTopics
from raypipe.log.kafka.query import Query, taken
from raypipe.log.kafka.records import CutRecord

_TAKEN = 1_000
# What has not come yet is looked for again after this.
_AGAIN_S = 0.02
# Retention may move the beginning while it is looked up; it does so once a second at most.
_STARTS = 5
# Records read again at a time when they have left memory.
_REREAD = 4_096

BASE_PREFIX = "base/"


class Follower:
    """Knows cuts and notes; begins when it is first asked.

    Args:
        clients: To connect with.
        names: Of the topics.
        identity: Of the log.
        query: For questions.
    """

    def __init__(self, clients: Clients, names: ControlTopics, identity: str, query: Query) -> None:
        self._clients = clients
        self._names = names
        self._identity = identity
        self._query = query
        self._consumer: Consumer | None = None
        self._history: History | None = None
        self._next_cut = 0  # offset
        self._next_position = 0
        self._base: Base | None = None  # the newest, until all the cuts below it have come
        self._notes: dict[str, tuple[int, str | None]] = {}  # with the offset that says so

    @property
    def history(self) -> History:
        """What is known of the cuts; complete as of the start, and then as far as it was followed."""
        if self._history is None:
            self._start()
        assert self._history is not None
        return self._history

    @property
    def notes(self) -> dict[str, str]:
        """What is known of the notes."""
        assert self.history is not None
        return {key: text for key, (_, text) in self._notes.items() if text is not None}

    def look(self) -> History:
        """Takes in what has arrived, without waiting and without asking."""
        history = self.history
        self._take(0.0)
        if self._base is not None and history.now.number >= self._base.fold.number:
            history.forget(self._base)
            self._base = None
        return history

    def sync(self) -> History:
        """Takes in everything that was committed before this call."""
        history = self.look()
        _, end = self._query.bounds(self._names.cuts)
        if self._next_cut < end:
            self._take(0.0)
        if self._next_cut < end:
            for message in self._query.read(self._names.cuts, self._next_cut, end):
                self._apply(message)
            self._next_cut = max(self._next_cut, end)
        return history

    def settle(self, end: int) -> History:
        """Waits until every transaction below an end of the cuts topic has ended, and takes in what was committed.

        One that has not ended hides what others committed behind it. A writer that starts must not miss its own last
        commit there, or it would write the same changes again.

        Raises:
            Unavailable: one does not end in time.
        """
        if not self.settles(end, ANSWER_S):
            raise Unavailable(
                f"Log {self._clients.place} has a transaction that another writer has not ended.",
                remedy="The broker gives it up after transaction_timeout_ms, and the reader tries again until then. One"
                " that stays for longer hangs in the broker: see kafka-transactions.sh find-hanging.",
                log=self._clients.place,
            )
        return self.sync()

    def settles(self, end: int, within_s: float) -> bool:
        """Whether every transaction below an end of the cuts topic ends within a time."""
        deadline = time.monotonic() + within_s
        while self._query.bounds(self._names.cuts)[1] < end:
            if time.monotonic() > deadline:
                return False
            time.sleep(_AGAIN_S)
        return True

    def await_cut(self, number: int) -> bool:
        """Waits until the record of that number has come; False if it does not in time."""
        deadline = time.monotonic() + ANSWER_S
        while self._next_cut < number:
            if time.monotonic() > deadline:
                return False
            self._take(0.1)
        return True

    def note(self, key: str, text: str | None, offset: int) -> None:
        """Takes in a note that this process wrote."""
        known = self._notes.get(key)
        if known is None or known[0] < offset:
            self._notes[key] = (offset, text)

    def stop(self) -> None:
        """Forgets everything and follows anew when next asked: after an error nothing is taken for granted."""
        self._history = None
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    close = stop

    def _start(self) -> None:
        for attempt in range(_STARTS):
            base, positions_end = self._read_base()
            begin = max(0, base.oldest - 1)
            first, end = self._query.bounds(self._names.cuts)
            if begin < first:
                if attempt + 1 < _STARTS and self._read_base()[0].oldest > base.oldest:
                    continue
                raise gap(self._clients.place, self._names.cuts)
            if begin > end:
                raise damaged(self._clients.place, f"topic {self._names.cuts} is shorter than its own retention says")
            self._history = History(base, self._reread)
            self._next_cut, self._next_position = begin, positions_end
            try:
                for message in self._query.read(self._names.cuts, begin, end):
                    self._apply(message)
            except SourceGap:
                self._history = None
                if attempt + 1 < _STARTS:
                    continue
                raise
            self._next_cut = max(self._next_cut, end)
            break
        first_note, end_note = self._query.bounds(self._names.notes)
        self._notes.clear()
        for message in self._query.read(self._names.notes, first_note, end_note):
            self._apply(message)
        self._consumer = self._clients.following()
        self._consumer.assign(
            [
                TopicPartition(self._names.cuts, 0, self._next_cut),
                TopicPartition(self._names.positions, 0, self._next_position),
                TopicPartition(self._names.notes, 0, end_note),
            ]
        )

    def _read_base(self) -> tuple[Base, int]:
        first, end = self._query.bounds(self._names.positions)
        base = Base(fold=Fold(log=self._identity))
        for message in self._query.read(self._names.positions, first, end):
            found = self._as_base(message)
            if found is not None and found.oldest > base.oldest:
                base = found
        return base, end

    def _as_base(self, message: Message) -> Base | None:
        key, value = message.key(), message.value()
        if value is None or not _text(key).startswith(BASE_PREFIX):
            return None
        try:
            base = Base.from_bytes(_content(value))
        except (ValueError, LookupError, TypeError) as error:
            raise damaged(
                self._clients.place, f"a record of topic {self._names.positions} cannot be read", error
            ) from error
        return base if base.fold.log == self._identity else None

    def _take(self, timeout_s: float) -> None:
        assert self._consumer is not None
        while True:
            messages = taken(self._consumer, _TAKEN, timeout_s)
            for message in messages:
                error = message.error()
                if error is None:
                    self._apply(message)
                elif error.code() in OUT_OF_RANGE:
                    # Retention has passed this follower while it slept: what it missed is in the newest base.
                    self.stop()
                    self._start()
                    return
                elif error.code() != KafkaError._PARTITION_EOF and not passing(error):
                    self.stop()
                    raise explain(self._clients.place, error, message.topic() or "")
            if len(messages) < _TAKEN:
                return

    def _apply(self, message: Message) -> None:
        topic, offset = message.topic(), message.offset() or 0
        if topic == self._names.cuts:
            if offset >= self._next_cut:
                self._apply_cut(offset, message)
        elif topic == self._names.positions:
            base = self._as_base(message)
            if base is not None and (self._base is None or base.oldest > self._base.oldest):
                self._base = base
        else:
            value = message.value()
            self.note(_text(message.key()), None if value is None else _text(value), offset)

    def _apply_cut(self, offset: int, message: Message) -> None:
        assert self._history is not None
        number, record = self._record(message)
        try:
            self._history.apply(number, record)
        except ValueError as error:
            raise damaged(self._clients.place, f"in topic {self._names.cuts}, {error}") from error
        self._next_cut = offset + 1

    def _record(self, message: Message) -> Numbered:
        """A record and its number; another's message in our topic is damage."""
        try:
            return (message.offset() or 0) + 1, CutRecord.from_bytes(_content(message.value()))
        except (ValueError, LookupError, TypeError) as error:
            raise damaged(
                self._clients.place,
                f"message {message.offset()} of topic {self._names.cuts} was not written by this raypipe",
                error,
            ) from error

    def _reread(self, after: int, upto: int) -> Iterator[Numbered]:
        """Records above a number up to another; a record's number is its offset plus one."""
        while after < upto:
            end = min(upto, after + _REREAD)
            for message in self._query.read(self._names.cuts, after, end):
                yield self._record(message)
            after = end


def _content(value: bytes | str | None) -> bytes:
    if value is None:
        raise ValueError("an empty record")
    return value.encode() if isinstance(value, str) else value


def _text(value: bytes | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else value.decode()
