"""What a real server sent, as events and images written down by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raypipe.errors import Corrupt
from raypipe.model import IMAGE, OP, Column, Image, Op, TableName, TableSchema
from raypipe.sources.postgres import events
from raypipe.sources.postgres.decode import SentColumn, Shape, decode, shape_of
from raypipe.sources.postgres.events import Event, Relation, Rows
from raypipe.sources.postgres.frames import HEADER_BYTES, PADDING_BYTES, find_messages
from raypipe.sources.postgres.pgoutput import Scanner
from raypipe.sources.postgres.types import Catalog
from raypipe.sources.postgres.wire import Gulp

FOLDER = Path(__file__).parent / "captured"
SCENES = sorted(path.stem for path in FOLDER.glob("*.bin"))
LONG = "x" * 2500
ABSENT = "absent"


def catalog(mood: int = 0) -> Catalog:
    built_in = [(23, "int4", "integer"), (25, "text", "text")]
    rows = [(oid, "pg_catalog", name, "b", 0, 0, -1, 0, "false", declared) for oid, name, declared in built_in]
    return Catalog([*rows, (mood, "public", "mood", "e", 0, 0, -1, 0, "false", "mood")])


def gulps(scene: str, messages_each: int = 1_000_000) -> list[Gulp]:
    data = (FOLDER / f"{scene}.bin").read_bytes()
    buffer = np.frombuffer(data + bytes(PADDING_BYTES), np.uint8)
    starts, end = find_messages(buffer, 0, len(data), b"w")
    assert end == len(data)
    sizes = np.diff(np.append(starts, end)) - HEADER_BYTES
    return [
        Gulp(
            buffer=buffer,
            at=starts[first : first + messages_each] + HEADER_BYTES,
            size=sizes[first : first + messages_each],
        )
        for first in range(0, len(starts), messages_each)
    ]


def told(scene: str, protocol: int = 1) -> list[Event]:
    [gulp] = gulps(scene)
    return Scanner(protocol).scan(gulp)


def shape_for(relation: Relation, key: str) -> Shape:
    sent = [SentColumn(name=each.name, type_oid=each.type_oid, typmod=each.typmod) for each in relation.columns]
    known = catalog(mood=next((each.type_oid for each in relation.columns if each.name == "m"), 0))
    schema = TableSchema(
        table=TableName("lab", relation.schema, relation.table),
        columns=tuple(Column(name=column.name, type=column.kind(known).type) for column in sent),
        key=(key,),
    )
    return shape_of(schema, sent, known)


def images(scene: str, table: str, key: str, messages_each: int = 1_000_000) -> list[tuple]:
    """(op, image, values) of a table; ABSENT where a value was not sent."""
    scanner, shapes, found = Scanner(1), {}, []
    for gulp in gulps(scene, messages_each):
        for event in scanner.scan(gulp):
            if isinstance(event, Relation) and event.table == table:
                shapes = {event.oid: shape_for(event, key)}
            for part in decode(event, shapes) if isinstance(event, Rows) else ():
                for place, row in enumerate(part.rows.to_pylist()):
                    values = [row[name] for name in part.schema.names]
                    for column in part.absent[place].nonzero()[0] if part.absent is not None else ():
                        assert values[column] is None
                        values[column] = ABSENT
                    found.append((Op(row[OP]).name, Image(row[IMAGE]).name, values))
    return found


@pytest.mark.parametrize("messages_each", [1, 2, 7, 1_000_000])
def test_the_default_identity_tells_keys_and_leaves_out_what_did_not_change(messages_each):
    assert images("identities", "by_default", "id", messages_each) == [
        ("INSERT", "FULL", [1, 10, 1, LONG]),
        ("INSERT", "FULL", [2, 20, None, None]),
        ("UPDATE_BEFORE", "KEY", [1, None, None, None]),
        ("UPDATE_AFTER", "PARTIAL", [1, 10, 5, ABSENT]),
        ("UPDATE_BEFORE", "KEY", [1, None, None, None]),
        ("UPDATE_AFTER", "PARTIAL", [3, 10, 5, ABSENT]),
        ("UPDATE_BEFORE", "KEY", [3, None, None, None]),
        ("UPDATE_AFTER", "PARTIAL", [3, 11, 5, ABSENT]),
        ("UPDATE_BEFORE", "KEY", [3, None, None, None]),
        ("UPDATE_AFTER", "FULL", [3, 11, 5, "short"]),
        ("DELETE", "KEY", [2, None, None, None]),
    ]


def test_the_full_identity_tells_everything():
    assert images("identities", "by_full", "id") == [
        ("INSERT", "FULL", [1, 10, 1, LONG]),
        ("INSERT", "FULL", [2, 20, None, None]),
        ("UPDATE_BEFORE", "FULL", [1, 10, 1, LONG]),
        ("UPDATE_AFTER", "FULL", [1, 10, 5, LONG]),
        ("UPDATE_BEFORE", "FULL", [1, 10, 5, LONG]),
        ("UPDATE_AFTER", "FULL", [3, 10, 5, LONG]),
        ("UPDATE_BEFORE", "FULL", [3, 10, 5, LONG]),
        ("UPDATE_AFTER", "FULL", [3, 11, 5, LONG]),
        ("UPDATE_BEFORE", "FULL", [3, 11, 5, LONG]),
        ("UPDATE_AFTER", "FULL", [3, 11, 5, "short"]),
        ("DELETE", "FULL", [2, 20, None, None]),
    ]


def test_an_index_as_identity_tells_its_columns():
    assert images("identities", "by_index", "code") == [
        ("INSERT", "FULL", [1, 10, 1, LONG]),
        ("INSERT", "FULL", [2, 20, None, None]),
        ("UPDATE_BEFORE", "KEY", [None, 10, None, None]),
        ("UPDATE_AFTER", "PARTIAL", [1, 10, 5, ABSENT]),
        ("UPDATE_BEFORE", "KEY", [None, 10, None, None]),
        ("UPDATE_AFTER", "PARTIAL", [3, 10, 5, ABSENT]),
        ("UPDATE_BEFORE", "KEY", [None, 10, None, None]),
        ("UPDATE_AFTER", "PARTIAL", [3, 11, 5, ABSENT]),
        ("UPDATE_BEFORE", "KEY", [None, 11, None, None]),
        ("UPDATE_AFTER", "FULL", [3, 11, 5, "short"]),
        ("DELETE", "KEY", [None, 20, None, None]),
    ]


def test_rolled_back_savepoints_leave_nothing_and_truncates_keep_their_place():
    found = told("transactions")
    kinds = [type(event).__name__ for event in found if not isinstance(event, Relation)]
    assert kinds == ["Rows", "Rows", "Rows", "Message", "Truncate", "Rows", "Message", "Rows", "Rows"]
    messages = [event for event in found if isinstance(event, events.Message)]
    assert [(each.transactional, each.prefix, each.content) for each in messages] == [
        (True, "inside", b"a"),
        (False, "outside", b"b"),
    ]
    [truncate] = [event for event in found if isinstance(event, events.Truncate)]
    assert (truncate.ordinal, truncate.restart_identity, len(truncate.oids)) == (3, True, 2)
    rows = [event for event in found if isinstance(event, Rows) and len(event)]
    assert [each.ordinal.tolist() for each in rows] == [[0], [1], [5], [0]]
    assert {each.transactions.xid[0] for each in rows[:3]} == {truncate.xid}
    assert images("transactions", "one", "id") == [("INSERT", "FULL", [value]) for value in (1, 4, 6)]


def test_a_table_that_changes_is_told_again_with_its_new_types():
    relations = [event for event in told("altered") if isinstance(event, Relation)]
    assert [[column.name for column in each.columns] for each in relations] == [["id", "gone"], ["id", "m"]]
    [name] = [event for event in told("altered") if isinstance(event, events.TypeName)]
    assert (name.oid, name.name) == (relations[1].columns[1].type_oid, "mood")
    assert images("altered", "one", "id") == [("INSERT", "FULL", [1, "a"]), ("INSERT", "FULL", [2, "sad"])]


def test_transactions_in_progress_are_told_with_what_became_of_them():
    found = told("in_progress", 4)
    rows = [event for event in found if isinstance(event, Rows)]
    top, other = rows[0].streamed_xid, rows[-1].streamed_xid
    assert [each.streamed_xid for each in rows] == [top, top, top, other]
    assert [each.ordinal.tolist() for each in rows] == [[0], [1], [2], [0]]
    savepoint = int(rows[1].subxid[0])
    ends = [event for event in found if isinstance(event, events.StreamAbort | events.StreamCommit)]
    assert [(type(each).__name__, each.xid) for each in ends] == [
        ("StreamAbort", top),
        ("StreamCommit", top),
        ("StreamAbort", other),
    ]
    assert (ends[0].subxid, ends[2].subxid) == (savepoint, other)
    assert ends[0].abort_lsn > 0


def test_prepared_transactions_are_told_with_what_became_of_them():
    found = [event for event in told("prepared", 3) if not isinstance(event, Relation)]
    assert [type(event).__name__ for event in found] == [
        *("BeginPrepare", "Rows", "Prepare", "CommitPrepared"),
        *("BeginPrepare", "Rows", "Prepare", "RollbackPrepared"),
        "Rows",
    ]
    assert [event.gid for event in found if hasattr(event, "gid")] == ["kept"] * 3 + ["dropped"] * 3
    rows = [event for event in found if isinstance(event, Rows)]
    assert [each.transactions.xid[0] for each in rows[:2]] == [found[0].xid, found[4].xid]
    assert [each.transactions.end_lsn[-1] > 0 for each in rows] == [False, False, True]


@pytest.mark.parametrize("scene", SCENES)
def test_a_stream_that_ends_anywhere_gives_what_was_whole(scene):
    data = (FOLDER / f"{scene}.bin").read_bytes()
    buffer = np.frombuffer(data + bytes(PADDING_BYTES), np.uint8)
    starts, _ = find_messages(buffer, 0, len(data), b"w")
    for end in range(0, len(data), max(1, len(data) // 997)):
        found, after = find_messages(buffer, 0, end, b"w")
        assert found.tolist() == starts[: len(found)].tolist()
        assert after == (starts[len(found)] if len(found) < len(starts) else len(data))


@pytest.mark.parametrize("scene", SCENES)
def test_no_changed_byte_does_more_than_change_a_value_or_be_noticed(scene, seed):
    """Whatever a message becomes, nothing but ``Corrupt`` is raised and no memory is read that is not there."""
    random = np.random.default_rng(seed)
    [gulp] = gulps(scene)
    for _ in range(150):
        buffer = gulp.buffer.copy()
        place = int(random.choice(gulp.at)) + int(random.integers(0, 60))
        buffer[place % (len(buffer) - PADDING_BYTES)] = random.integers(0, 256)
        try:
            _read(Gulp(buffer=buffer, at=gulp.at, size=gulp.size))
        except Corrupt:
            continue


def _read(gulp: Gulp) -> None:
    shapes = {}
    for event in Scanner(4).scan(gulp):
        if isinstance(event, Relation) and event.columns:
            shapes[event.oid] = shape_for(event, event.columns[0].name)
        if isinstance(event, Rows):
            decode(event, shapes)
