"""Anomalies of a log, after Jepsen's Kafka workload: what was written and polled goes in, what is wrong comes out.

A write is a transaction of the source; its writer says how it ended. A poll is what one reader got at a time. Values
are unique, so a value that is polled says which write it is of. Partition and offset of a record are Kafka's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

Value = Hashable
Offset = tuple[int, int]  # of the message, and of the change in it


class Outcome(Enum):
    """How a write ended, as far as its writer knows."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"  # the connection broke while it committed


class Kind(Enum):
    """What can be wrong."""

    ABORTED_READ = "aborted read (G1a)"  # a value was polled whose writer gave it up
    UNWRITTEN = "unwritten"  # a value was polled that nobody wrote
    LOST_WRITE = "lost write"  # committed and never polled, though a later value of its writer was
    UNSEEN = "unseen"  # committed and never polled, and nothing later of its writer either
    DUPLICATE = "duplicate"  # a value lies in two places, or came twice
    INCONSISTENT_OFFSETS = "inconsistent offsets"  # two values in one place
    OUT_OF_ORDER = "out of order"  # a later value of a writer lies, or came, before an earlier one
    TORN = "torn transaction"  # up to a cut, part of a transaction and not the rest
    NONMONOTONIC_POLL = "nonmonotonic poll"  # a reader that did not seek went back
    POLL_SKIP = "poll skip"  # a reader went past a record that is there
    LOST_ROW = "lost row"  # the source holds it, the fold of the log does not
    FALSE_ROW = "false row"  # the other way round


@dataclass(frozen=True, kw_only=True)
class Write:
    """One transaction.

    Attributes:
        writer: Whose transactions follow one another.
        number: Grows with each of them.
        outcome: As the writer was told.
        values: In order.
    """

    writer: str
    number: int
    outcome: Outcome
    values: tuple[Value, ...]


class Record(NamedTuple):
    """A value where it lies; without an offset if the reader does not tell."""

    value: Value
    partition: str = ""
    offset: Offset | None = None


@dataclass(frozen=True, kw_only=True)
class Poll:
    """What one reader got at a time.

    Attributes:
        reader: Whose polls follow one another.
        records: In the order in which they came.
        seeks: The reader went elsewhere before this: how it goes on from the poll before says nothing.
        whole: It ends at a cut: up to there no transaction may be seen in part.
    """

    reader: str
    records: tuple[Record, ...]
    seeks: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Anomaly:
    """Something wrong, with an example of it."""

    kind: Kind
    example: str


Place = tuple[str, int, int]  # writer, number of the write, ordinal of the value in it


def anomalies(writes: Sequence[Write], polls: Sequence[Poll]) -> list[Anomaly]:
    """Everything that is wrong with a history that has come to rest; empty if nothing is."""
    places = _places(writes)
    return [
        *_reads_of_nothing(writes, polls),
        *_missing(writes, polls, places),
        *_duplicates(polls),
        *_inconsistent_offsets(polls),
        *_out_of_order_in_partitions(polls, places),
        *_out_of_order_in_cuts(polls, places),
        *_torn(writes, polls, places),
        *_broken_polls(polls),
    ]


def _places(writes: Sequence[Write]) -> dict[Value, Place]:
    """Where a value comes from, if only one write can be meant.

    A row that two transactions delete, of which one came to nothing, is in both as the same value.
    """
    found: dict[Value, list[Place]] = defaultdict(list)
    for write in writes:
        if write.outcome is not Outcome.ABORTED:
            for ordinal, value in enumerate(write.values):
                found[value].append((write.writer, write.number, ordinal))
    return {value: places[0] for value, places in found.items() if len(places) == 1}


def _polled(polls: Sequence[Poll]) -> set[Value]:
    return {record.value for poll in polls for record in poll.records}


def _reads_of_nothing(writes: Sequence[Write], polls: Sequence[Poll]) -> Iterator[Anomaly]:
    possible = {value for write in writes if write.outcome is not Outcome.ABORTED for value in write.values}
    given_up = {value for write in writes for value in write.values} - possible
    for value in sorted(_polled(polls) - possible, key=repr):
        if value in given_up:
            yield Anomaly(Kind.ABORTED_READ, f"{value} was rolled back and polled")
        else:
            yield Anomaly(Kind.UNWRITTEN, f"{value} was polled and never written")


def _missing(writes: Sequence[Write], polls: Sequence[Poll], places: dict[Value, Place]) -> Iterator[Anomaly]:
    """Of each reader that saw all of the history by itself; a reader counts by what it polled in the whole."""
    for reader in sorted({poll.reader for poll in polls}) or ["nobody"]:
        seen = _polled([poll for poll in polls if poll.reader == reader])
        newest: dict[str, tuple[int, int]] = {}
        for value in seen:
            if value in places:
                writer, *at = places[value]
                newest[writer] = max(newest.get(writer, (0, -1)), (at[0], at[1]))
        for write in writes:
            if write.outcome is Outcome.COMMITTED:
                for ordinal, value in enumerate(write.values):
                    if value not in seen:
                        later = (write.number, ordinal) < newest.get(write.writer, (0, -1))
                        kind = Kind.LOST_WRITE if later else Kind.UNSEEN
                        yield Anomaly(kind, f"{value} of {write.writer} {write.number} did not come to {reader}")


def _duplicates(polls: Sequence[Poll]) -> Iterator[Anomaly]:
    lies: dict[Value, set[tuple[str, Offset]]] = defaultdict(set)
    came: dict[str, set[Value]] = defaultdict(set)
    for poll in polls:
        if poll.seeks:
            came[poll.reader] = set()
        for record in poll.records:
            if record.offset is not None:
                lies[record.value].add((record.partition, record.offset))
            elif record.value in came[poll.reader]:
                yield Anomaly(Kind.DUPLICATE, f"{record.value} came to {poll.reader} twice")
            came[poll.reader].add(record.value)
    for value, where in lies.items():
        if len(where) > 1:
            yield Anomaly(Kind.DUPLICATE, f"{value} lies at {sorted(where)}")


def _inconsistent_offsets(polls: Sequence[Poll]) -> Iterator[Anomaly]:
    held: dict[tuple[str, Offset], set[Value]] = defaultdict(set)
    for poll in polls:
        for record in poll.records:
            if record.offset is not None:
                held[record.partition, record.offset].add(record.value)
    for place, values in held.items():
        if len(values) > 1:
            yield Anomaly(Kind.INCONSISTENT_OFFSETS, f"{place} holds {sorted(values, key=repr)}")


def _log(polls: Sequence[Poll]) -> dict[str, list[tuple[Offset, Value]]]:
    """The records of each partition in the order of their offsets, as all readers together know them."""
    held: dict[str, dict[Offset, Value]] = defaultdict(dict)
    for poll in polls:
        for record in poll.records:
            if record.offset is not None:
                held[record.partition][record.offset] = record.value
    return {partition: sorted(records.items()) for partition, records in held.items()}


def _out_of_order_in_partitions(polls: Sequence[Poll], places: dict[Value, Place]) -> Iterator[Anomaly]:
    for partition, records in _log(polls).items():
        newest: dict[str, tuple[int, int]] = {}
        for offset, value in records:
            if value not in places:
                continue
            writer, *at = places[value]
            if (at[0], at[1]) < newest.get(writer, (0, -1)):
                yield Anomaly(Kind.OUT_OF_ORDER, f"{value} of {writer} {at[0]} lies late, at {partition} {offset}")
            newest[writer] = max(newest.get(writer, (0, -1)), (at[0], at[1]))


def _out_of_order_in_cuts(polls: Sequence[Poll], places: dict[Value, Place]) -> Iterator[Anomaly]:
    newest: dict[tuple[str, str], int] = {}
    for poll in polls:
        if not poll.whole:
            continue
        if poll.seeks:
            newest = {key: number for key, number in newest.items() if key[0] != poll.reader}
        found: dict[str, list[int]] = defaultdict(list)
        for record in poll.records:
            if record.value in places:
                writer, number, _ = places[record.value]
                found[writer].append(number)
        for writer, numbers in found.items():
            key = (poll.reader, writer)
            if min(numbers) < newest.get(key, 0):
                yield Anomaly(Kind.OUT_OF_ORDER, f"{writer} {min(numbers)} came to {poll.reader} after a later one")
            newest[key] = max(newest.get(key, 0), *numbers)


def _torn(writes: Sequence[Write], polls: Sequence[Poll], places: dict[Value, Place]) -> Iterator[Anomaly]:
    whole = {
        (write.writer, write.number): sum(value in places for value in write.values)
        for write in writes
        if write.outcome is not Outcome.ABORTED
    }
    for poll in polls:
        if poll.whole:
            found: dict[tuple[str, int], set[Value]] = defaultdict(set)
            for record in poll.records:
                if record.value in places:
                    writer, number, _ = places[record.value]
                    found[writer, number].add(record.value)
            for (writer, number), values in found.items():
                if len(values) < whole[writer, number]:
                    yield Anomaly(
                        Kind.TORN,
                        f"{len(values)} of {whole[writer, number]} values of {writer} {number} came to {poll.reader}"
                        " up to a cut",
                    )


def _broken_polls(polls: Sequence[Poll]) -> Iterator[Anomaly]:
    there = {partition: [offset for offset, _ in records] for partition, records in _log(polls).items()}
    stands: dict[tuple[str, str], int] = {}
    for poll in polls:
        if poll.seeks:
            stands = {key: at for key, at in stands.items() if key[0] != poll.reader}
        for record in poll.records:
            if record.offset is None:
                continue
            key = (poll.reader, record.partition)
            at, before = bisect_left(there[record.partition], record.offset), stands.get(key)
            if before is not None and at <= before:
                yield Anomaly(Kind.NONMONOTONIC_POLL, f"{poll.reader} went back to {record.partition} {record.offset}")
            elif before is not None and at > before + 1:
                yield Anomaly(Kind.POLL_SKIP, f"{poll.reader} jumped to {record.partition} {record.offset}")
            stands[key] = at
