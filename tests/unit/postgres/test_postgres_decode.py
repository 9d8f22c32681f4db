"""Rows of messages become images by column; a decoder that goes row by row says what they must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raypipe_wire_messages import (
    POSTGRES_EPOCH_US,
    UNCHANGED,
    Value,
    begin,
    commit,
    delete,
    gulp,
    insert,
    message,
    update,
    wal,
)

from raypipe.errors import Corrupt, InvariantBroken
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, Column, Image, Op, TableName, TableSchema
from raypipe.sources.postgres.decode import Decoded, SentColumn, Shape, decode, shape_of
from raypipe.sources.postgres.events import Rows
from raypipe.sources.postgres.pgoutput import Scanner
from raypipe.sources.postgres.types import Catalog

INT8, TEXT = 20, 25
CATALOG = Catalog(
    [
        (oid, "pg_catalog", name, "b", 0, 0, -1, 0, "false", declared)
        for oid, name, declared in (
            (INT8, "int8", "bigint"),
            (TEXT, "text", "text"),
            (701, "float8", "double precision"),
            (17, "bytea", "bytea"),
            (16, "bool", "boolean"),
        )
    ]
)
COLUMNS = {"a": TEXT, "id": INT8, "b": TEXT, "c": 701, "d": 16}
SENT = [SentColumn(name=name, type_oid=oid) for name, oid in COLUMNS.items()]
KEY = SENT[1].name


def schema_of(oid: int, names: Sequence[str] = tuple(COLUMNS), key: tuple[str, ...] = (KEY,)) -> TableSchema:
    return TableSchema(
        table=TableName("shop", "public", f"t{oid}"),
        columns=tuple(Column(name=name, type=CATALOG.kind_of(COLUMNS[name]).type) for name in names),
        key=key,
    )


SHAPES = {oid: shape_of(schema_of(oid), SENT, CATALOG) for oid in (1, 2, 3)}

Row = tuple[Value, ...]


@dataclass(frozen=True)
class Change:
    op: str
    oid: int
    new: Row
    old: Row | None
    old_kind: bytes

    def body(self) -> bytes:
        match self.op:
            case "I":
                return insert(self.oid, self.new)
            case "U":
                return update(self.oid, self.new, self.old, self.old_kind)
        assert self.old is not None
        return delete(self.oid, self.old, self.old_kind)


WORDS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12))
ROWS = st.tuples(
    WORDS,
    st.integers(-(2**63), 2**63 - 1).map(str),
    WORDS,
    st.one_of(st.none(), st.floats(allow_nan=False).map(repr)),
    st.sampled_from([None, "t", "f"]),
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    op, oid = draw(st.sampled_from("IUUD")), draw(st.integers(1, 3))
    new, old = draw(ROWS), draw(ROWS)
    identity = draw(st.sampled_from(["full", "key", "key unchanged"]))
    if op == "I":
        return Change(op, oid, new, None, b"")
    if op == "U":  # values stored apart that did not change are left out
        left_out = draw(st.sets(st.sampled_from([0, 2])))
        kept = [place for place in left_out if identity != "full" or old[place] is not None]
        new = tuple(UNCHANGED if place in kept else value for place, value in enumerate(new))
    if identity == "full":
        return Change(op, oid, new, old, b"O")
    key_only = tuple(value if place == 1 else None for place, value in enumerate(old))
    if op == "U" and identity == "key unchanged":
        return Change(op, oid, new, None, b"")
    return Change(op, oid, new, key_only, b"K")


def decoded(found: list[Change], shapes: dict[int, Shape] | None = None, lsn: int = 50) -> list[Decoded]:
    bodies = [begin(lsn, POSTGRES_EPOCH_US + 9, 1), *(change.body() for change in found), commit(lsn, 60, 0)]
    [rows] = Scanner().scan(gulp([wal(body) for body in bodies]))
    assert isinstance(rows, Rows)
    return decode(rows, SHAPES if shapes is None else shapes)


def native(value: Value, oid: int) -> object:
    if value is None or value is UNCHANGED:
        return None
    assert isinstance(value, str)
    return {INT8: int, TEXT: str, 701: float, 16: lambda letter: letter == "t"}[oid](value)


def images_of(found: list[Change]) -> dict[int, list[tuple]]:
    """What the changes must become: (op, image, ordinal, row, absent columns) by relation."""
    images: dict[int, list[tuple]] = {}
    for ordinal, change in enumerate(found):
        mine = images.setdefault(change.oid, [])

        def add(op: Op, image: Image, row: Row, at: int = ordinal, to: list = mine) -> None:  # type: ignore[type-arg]
            absent = [place for place, value in enumerate(row) if value is UNCHANGED]
            values = [native(value, oid) for value, oid in zip(row, COLUMNS.values(), strict=True)]
            to.append((int(op), int(Image.PARTIAL if absent else image), at, values, absent))

        if change.op == "I":
            add(Op.INSERT, Image.FULL, change.new)
            continue
        known = change.old or change.new
        before = known if change.old_kind == b"O" else tuple(v if p == 1 else None for p, v in enumerate(known))
        image = Image.FULL if change.old_kind == b"O" else Image.KEY
        add(Op.DELETE if change.op == "D" else Op.UPDATE_BEFORE, image, before)
        if change.op == "U":
            new = change.new
            if change.old is not None and change.old_kind == b"O":
                new = tuple(o if n is UNCHANGED else n for n, o in zip(new, change.old, strict=True))
            add(Op.UPDATE_AFTER, Image.FULL, new)
    return images


@given(st.lists(changes(), min_size=1, max_size=30))
def test_changes_of_many_tables_become_images_in_order(found):
    expected = images_of(found)
    parts = decoded(found)
    assert {int(part.schema.table.table[1:]) for part in parts} == expected.keys()
    for part in parts:
        rows = part.rows
        rows.validate(full=True)
        columns = [rows.column(name).to_pylist() for name in part.schema.names]
        absent = [[] for _ in range(rows.num_rows)] if part.absent is None else [a.nonzero()[0] for a in part.absent]
        assert [
            (op, image, ordinal, list(row), [int(place) for place in gone])
            for op, image, ordinal, row, gone in zip(
                rows.column(OP).to_pylist(),
                rows.column(IMAGE).to_pylist(),
                rows.column(ORDINAL).to_pylist(),
                zip(*columns, strict=True),
                absent,
                strict=True,
            )
        ] == expected[int(part.schema.table.table[1:])]
        assert set(rows.column(COMMIT).to_pylist()) == {50}
        assert set(rows.column(TIME).cast(pa.int64()).to_pylist()) == {POSTGRES_EPOCH_US + 9}
        assert part.misfits is None
        assert part.row.tolist() == rows.column(ORDINAL).to_pylist()


def test_columns_may_be_sent_in_another_order_and_more_of_them():
    shape = shape_of(schema_of(1, ("id", "a")), SENT, CATALOG)
    [part] = decoded([Change("I", 1, ("x", "5", "y", "1.5", "t"), None, b"")], {1: shape})
    assert part.rows.select(["id", "a"]).to_pylist() == [{"id": 5, "a": "x"}]


def test_rows_of_tables_without_a_shape_are_left_out():
    row = ("x", "5", "y", "1.5", "t")
    [part] = decoded([Change("I", 9, row, None, b""), Change("I", 2, row, None, b"")])
    assert part.schema.table.table == "t2"
    assert part.rows.column(ORDINAL).to_pylist() == [1]


def test_a_key_that_was_left_out_is_taken_from_the_old_key():
    """PostgreSQL tells an old key also when it is stored apart and did not change."""
    key = (KEY, "a")
    shape = shape_of(schema_of(1, key=key), SENT, CATALOG)
    change = Change("U", 1, (UNCHANGED, "5", "y", None, None), ("long", "5", None, None, None), b"K")
    [part] = decoded([change], {1: shape})
    assert part.absent is None
    assert part.rows.select([OP, IMAGE, "a", "id", "b"]).to_pylist() == [
        {OP: Op.UPDATE_BEFORE, IMAGE: Image.KEY, "a": "long", "id": 5, "b": None},
        {OP: Op.UPDATE_AFTER, IMAGE: Image.FULL, "a": "long", "id": 5, "b": "y"},
    ]


def test_a_row_of_thousands_of_bytes_and_an_empty_one_are_neighbours():
    rows = [("x" * 100_000, "1", "", None, None), ("", "2", None, None, None), (None, "3", "y" * 70_000, None, None)]
    [part] = decoded([Change("I", 1, row, None, b"") for row in rows])
    assert part.rows.column("a").to_pylist() == [row[0] for row in rows]
    assert part.rows.column("b").to_pylist() == [row[2] for row in rows]


@pytest.mark.parametrize(
    "change",
    [
        Change("I", 1, ("x", "5", None, None, "t"), None, b""),
        Change("U", 1, ("x", "5", UNCHANGED, None, "t"), ("a", "4", "b", "1", None), b"O"),
        Change("D", 1, (), (None, "5", None, None, None), b"K"),
    ],
    ids=lambda change: change.op,
)
def test_a_change_that_is_cut_off_anywhere_is_corrupt(change):
    whole = change.body()
    for size in range(6, len(whole)):
        bodies = [begin(1, 0, 1), whole[:size], insert(1, ["x", "1", "y", None, None]), commit(1, 2, 0)]
        [rows] = Scanner().scan(gulp([wal(body) for body in bodies]))
        assert isinstance(rows, Rows)
        with pytest.raises(Corrupt):
            decode(rows, SHAPES)


@pytest.mark.parametrize("kind", [b"x", b"\xff", b"\0"])
@pytest.mark.parametrize("place", [5, 8])
def test_a_byte_that_means_nothing_is_corrupt(kind, place):
    whole = insert(1, ["x", "5", None, None, "t"])
    bodies = [begin(1, 0, 1), whole[:place] + kind + whole[place + 1 :], commit(1, 2, 0)]
    [rows] = Scanner().scan(gulp([wal(body) for body in bodies]))
    assert isinstance(rows, Rows)
    with pytest.raises(Corrupt):
        decode(rows, SHAPES)


def test_a_length_beyond_everything_is_corrupt():
    whole = bytearray(insert(1, ["x", "5", None, None, "t"]))
    whole[9:13] = b"\xff\xff\xff\x7f"
    bodies = [begin(1, 0, 1), bytes(whole), commit(1, 2, 0)]
    [rows] = Scanner().scan(gulp([wal(body) for body in bodies]))
    assert isinstance(rows, Rows)
    with pytest.raises(Corrupt):
        decode(rows, SHAPES)


@pytest.mark.parametrize(
    "change",
    [
        Change("U", 1, ("x", UNCHANGED, None, None, None), None, b""),
        Change("D", 1, (), ("x", UNCHANGED, None, None, None), b"O"),
        Change("I", 1, ("x", "1", UNCHANGED, None, None), None, b""),
    ],
    ids=lambda change: change.op,
)
def test_a_value_that_nobody_told_never_becomes_null(change):
    with pytest.raises(Corrupt):
        decoded([change])


def test_a_shape_without_a_column_of_the_schema_is_a_defect():
    with pytest.raises(InvariantBroken, match="is not sent"):
        shape_of(schema_of(1), SENT[:-1], CATALOG)
    with pytest.raises(InvariantBroken, match="is sent as"):
        shape_of(schema_of(1), [SentColumn(name="a", type_oid=INT8), *SENT[1:]], CATALOG)


def test_a_message_that_is_no_wal_is_corrupt():
    with pytest.raises(Corrupt):
        Scanner().scan(gulp([message(b"d", b"x" + bytes(30))]))
