"""Events of a replication stream, however it is cut into gulps: transactions, ordinals, and everything rare."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raypipe_wire_messages import (
    POSTGRES_EPOCH_US,
    begin,
    commit,
    delete,
    gulp,
    insert,
    keepalive,
    logical_message,
    message,
    relation,
    text,
    truncate,
    update,
    wal,
)

from raypipe.errors import Corrupt
from raypipe.sources.postgres import events
from raypipe.sources.postgres.pgoutput import Scanner

TIME_US = POSTGRES_EPOCH_US + 86_400_000_000


@dataclass(frozen=True)
class Change:
    op: str
    oid: int

    def body(self) -> bytes:
        match self.op:
            case "I":
                return insert(self.oid, ["1", None])
            case "U":
                return update(self.oid, ["1", "x"])
            case "D":
                return delete(self.oid, ["1", None], b"K")
            case "T":
                return truncate([self.oid, self.oid + 1])
        return logical_message("p", b"", transactional=True, lsn=7)


CHANGES = st.builds(Change, st.sampled_from("IIIUUDTM"), st.integers(1, 4))
TRANSACTIONS = st.lists(st.lists(CHANGES, max_size=6), max_size=12)


def messages_of(transactions: list[list[Change]], origins: set[int]) -> list[bytes]:
    found = []
    for number, changes in enumerate(transactions):
        found.append(wal(begin(100 * number + 50, TIME_US + number, number + 1)))
        if number in origins:
            found.append(wal(b"O" + struct.pack("!q", 5) + text(f"node{number}")))
        found += [wal(change.body()) for change in changes]
        found.append(wal(commit(100 * number + 50, 100 * number + 60, TIME_US + number)))
    return found


def told(found: list[events.Event]) -> tuple[list[tuple], list[tuple]]:
    """Every change with its transaction and ordinal, and every commit with how many changes came before."""
    changes: list[tuple] = []
    commits: list[tuple] = []
    for event in found:
        if isinstance(event, events.Truncate):
            changes.append(("T", event.oids[0], event.xid, event.ordinal, event.final_lsn, event.time_us))
        if isinstance(event, events.Message):
            changes.append(("M", 0, event.xid, event.ordinal, event.final_lsn, event.time_us))
        if not isinstance(event, events.Rows):
            continue
        before, transactions = len(changes), event.transactions
        for place in range(len(event)):
            number = int(event.transaction[place])
            changes.append(
                (
                    chr(event.op[place]),
                    int(event.oid[place]),
                    int(transactions.xid[number]),
                    int(event.ordinal[place]),
                    int(transactions.final_lsn[number]),
                    int(transactions.time_us[number]),
                )
            )
        commits += [
            (
                int(transactions.xid[number]),
                int(transactions.end_lsn[number]),
                before + int(transactions.end_row[number]),
                transactions.origins.get(number, ""),
            )
            for number in transactions.end_lsn.nonzero()[0].tolist()
        ]
    return changes, commits


@given(TRANSACTIONS, st.sets(st.integers(0, 12)), st.data())
def test_every_change_has_its_transaction_and_its_place_in_it_however_gulps_are_cut(transactions, origins, draw):
    messages = messages_of(transactions, origins)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(messages)), max_size=5)))
    scanner, found = Scanner(), []
    for first, last in zip([0, *cuts], [*cuts, len(messages)], strict=True):
        found += scanner.scan(gulp(messages[first:last]))
    expected_changes, expected_commits = [], []
    for number, changes in enumerate(transactions):
        ordinal = 0
        for change in changes:
            place = (number + 1, ordinal, 100 * number + 50, TIME_US + number)
            expected_changes.append((change.op, 0 if change.op == "M" else change.oid, *place))
            ordinal += 2 if change.op == "T" else 1
        origin = f"node{number}" if number in origins else ""
        expected_commits.append((number + 1, 100 * number + 60, len(expected_changes), origin))
    assert told(found) == (expected_changes, expected_commits)


def test_a_slice_keeps_the_ends_that_lie_in_it():
    messages = messages_of([[Change("I", 1)] * 3, [], [Change("I", 1)] * 2], set())
    [rows] = Scanner().scan(gulp(messages))
    assert isinstance(rows, events.Rows)
    head, tail = rows.slice(0, 3), rows.slice(3, 5)
    assert head.transactions.end_lsn.tolist() == [60, 160, 0]
    assert head.transactions.end_row.tolist() == [3, 3, 3]
    assert tail.transactions.end_lsn.tolist() == [60, 160, 260]
    assert tail.transactions.end_row.tolist() == [0, 0, 2]
    assert tail.ordinal.tolist() == [0, 1]


def test_a_keepalive_comes_last_and_asks_for_a_reply_if_one_of_them_did():
    messages = [keepalive(10, reply=True), wal(begin(50, TIME_US, 1)), keepalive(20, time_us=TIME_US)]
    rows, last = Scanner().scan(gulp(messages))
    assert isinstance(rows, events.Rows)
    assert last == events.Keepalive(end_lsn=20, reply_requested=True, time_us=TIME_US)


def test_relations_and_types_are_read():
    shape = relation(16_400, "", "orders", "d", [(1, "id", 20, -1), (0, "größe", 1700, 786_438)])
    found = Scanner().scan(
        gulp(
            [
                wal(begin(1, TIME_US, 1)),
                wal(b"Y" + struct.pack("!I", 16_390) + text("public") + text("mood")),
                wal(shape),
            ]
        )
    )
    assert found[1:] == [
        events.TypeName(oid=16_390, schema="public", name="mood"),
        events.Relation(
            oid=16_400,
            schema="pg_catalog",
            table="orders",
            identity="d",
            columns=(
                events.RelationColumn(name="id", type_oid=20, typmod=-1, in_identity=True),
                events.RelationColumn(name="größe", type_oid=1700, typmod=786_438, in_identity=False),
            ),
        ),
    ]


def test_a_truncate_tells_its_options_and_counts_every_table_as_a_row():
    messages = [wal(begin(9, TIME_US, 7)), wal(truncate([1, 2], 3)), wal(insert(1, ["1"]))]
    _, truncated, rows = Scanner().scan(gulp(messages))
    assert truncated == events.Truncate(
        oids=(1, 2), cascade=True, restart_identity=True, ordinal=0, final_lsn=9, time_us=TIME_US, xid=7
    )
    assert isinstance(rows, events.Rows)
    assert rows.ordinal.tolist() == [2]
    assert rows.transactions.continued


def test_a_logical_message_stands_where_it_was_written():
    outside = logical_message("raypipe", b"low", transactional=False, lsn=77)
    [found] = Scanner().scan(gulp([wal(outside)]))
    assert found == events.Message(transactional=False, lsn=77, prefix="raypipe", content=b"low")


def in_progress(xid: int, *bodies: bytes, first: bool) -> list[bytes]:
    return [wal(b"S" + struct.pack("!IB", xid, first)), *map(wal, bodies), wal(b"E")]


def test_a_transaction_in_progress_is_told_apart_until_it_commits():
    one, two = struct.pack("!I", 100), struct.pack("!I", 101)
    messages = [
        *in_progress(100, insert(1, ["1"], one), insert(2, ["2"], two), truncate([1], xid=one), first=True),
        wal(begin(50, TIME_US, 7)),
        wal(insert(1, ["3"])),
        wal(commit(50, 60, TIME_US)),
        *in_progress(100, insert(1, ["4"], one), first=False),
        wal(b"A" + struct.pack("!II", 100, 101)),
        wal(b"c" + struct.pack("!IBqqq", 100, 0, 70, 80, TIME_US - POSTGRES_EPOCH_US)),
    ]
    start, rows, truncated, stop, other, again, more, _, aborted, committed = Scanner(2).scan(gulp(messages))
    assert (start, stop, again) == (
        events.StreamStart(xid=100, first=True),
        events.StreamStop(),
        events.StreamStart(xid=100, first=False),
    )
    assert isinstance(rows, events.Rows)
    assert isinstance(more, events.Rows)
    assert isinstance(other, events.Rows)
    assert rows.streamed_xid == more.streamed_xid == 100
    assert rows.subxid is not None
    assert rows.subxid.tolist() == [100, 101]
    assert (rows.ordinal.tolist(), more.ordinal.tolist(), other.ordinal.tolist()) == ([0, 1], [3], [0])
    assert isinstance(truncated, events.Truncate)
    assert (truncated.ordinal, truncated.xid) == (2, 100)
    assert other.streamed_xid is None
    assert aborted == events.StreamAbort(xid=100, subxid=101, abort_lsn=0, time_us=0)
    assert committed == events.StreamCommit(xid=100, commit_lsn=70, end_lsn=80, time_us=TIME_US)


def test_an_abort_of_version_4_tells_where_and_when():
    body = b"A" + struct.pack("!IIqq", 100, 100, 90, TIME_US - POSTGRES_EPOCH_US)
    [found] = Scanner(4).scan(gulp([wal(body)]))
    assert found == events.StreamAbort(xid=100, subxid=100, abort_lsn=90, time_us=TIME_US)


def test_a_prepared_transaction_ends_without_a_commit():
    clock = TIME_US - POSTGRES_EPOCH_US
    messages = [
        wal(b"b" + struct.pack("!qqqI", 40, 50, clock, 9) + text("gid")),
        wal(insert(1, ["1"])),
        wal(b"P" + struct.pack("!BqqqI", 0, 40, 50, clock, 9) + text("gid")),
        wal(b"K" + struct.pack("!BqqqI", 0, 60, 70, clock, 9) + text("gid")),
        wal(b"r" + struct.pack("!BqqqqI", 0, 50, 80, clock, clock + 1, 9) + text("gid")),
        wal(b"p" + struct.pack("!BqqqI", 0, 40, 50, clock, 10) + text("other")),
    ]
    begun, rows, prepared, committed, rolled_back, streamed = Scanner(3).scan(gulp(messages))
    whole = {"prepare_lsn": 40, "end_lsn": 50, "time_us": TIME_US, "xid": 9, "gid": "gid"}
    assert begun == events.BeginPrepare(**whole)
    assert isinstance(rows, events.Rows)
    assert rows.transactions.xid.tolist() == [9]
    assert prepared == events.Prepare(**whole, streamed=False)
    assert committed == events.CommitPrepared(commit_lsn=60, end_lsn=70, time_us=TIME_US, xid=9, gid="gid")
    assert rolled_back == events.RollbackPrepared(
        prepare_end_lsn=50, rollback_end_lsn=80, prepare_time_us=TIME_US, time_us=TIME_US + 1, xid=9, gid="gid"
    )
    assert isinstance(streamed, events.Prepare)
    assert streamed.streamed


CLOCK = struct.pack("!q", 5)
WHOLE = {
    "begin": begin(1, TIME_US, 1),
    "commit": commit(1, 2, TIME_US),
    "insert": insert(1, ["1"]),
    "relation": relation(1, "public", "t", "d", [(1, "id", 20, -1)]),
    "type": b"Y" + struct.pack("!I", 1) + text("public") + text("mood"),
    "truncate": truncate([1, 2]),
    "message": logical_message("p", b"content", transactional=False, lsn=1),
    "origin": b"O" + CLOCK + text("node"),
    "stream start": b"S" + struct.pack("!IB", 1, 1),
    "stream commit": b"c" + struct.pack("!IBqqq", 1, 0, 1, 2, 3),
    "stream abort": b"A" + struct.pack("!II", 1, 2),
    "prepare": b"P" + struct.pack("!BqqqI", 0, 1, 2, 3, 4) + text("g"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_message_that_is_cut_off_anywhere_is_corrupt_or_told_by_its_tuples(kind):
    body = WHOLE[kind]
    before = [] if kind in ("begin", "stream start") else [wal(begin(1, TIME_US, 1))]
    if kind == "insert":
        body = body[:6]  # the tuples behind are read by decode
    for size in range(len(body)):
        with pytest.raises(Corrupt):
            Scanner().scan(gulp([*before, message(b"d", (b"w" + bytes(24) + body)[: 25 + size])]))
    for size in range(1, 18):
        with pytest.raises(Corrupt):
            Scanner().scan(gulp([message(b"d", keepalive(1)[5 : 5 + size])]))


@pytest.mark.parametrize(
    "bodies",
    [
        [insert(1, ["1"])],
        [commit(1, 2, TIME_US)],
        [begin(1, TIME_US, 1), begin(2, TIME_US, 2)],
        [begin(1, TIME_US, 1), commit(1, 2, TIME_US), commit(1, 2, TIME_US)],
        [begin(1, TIME_US, 1), commit(1, 2, TIME_US), insert(1, ["1"])],
        [truncate([1])],
        [b"S" + struct.pack("!IB", 1, 1), begin(1, TIME_US, 1)],
        [b"S" + struct.pack("!IB", 1, 1), b"S" + struct.pack("!IB", 2, 1)],
        [b"?nothing"],
    ],
)
def test_messages_in_an_order_that_cannot_be_are_corrupt(bodies):
    with pytest.raises(Corrupt):
        Scanner().scan(gulp([wal(body) for body in bodies]))
