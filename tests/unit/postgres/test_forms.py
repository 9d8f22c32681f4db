"""What a change of a table's form asks for, and what of it a position keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from raypipe.sources.postgres.address import parse_address
from raypipe.sources.postgres.events import Message
from raypipe.sources.postgres.forms import Needs, emptied, form, form_of, moved, needs, refiled, retold
from raypipe.sources.postgres.position import Backfill, Form, Known, Position
from raypipe.sources.postgres.schema import Table
from raypipe.sources.postgres.telling import Altered, Dropped, Rewritten, read

INT, BIGINT, TEXT, NUMERIC = 23, 20, 25, 1700
COLUMNS = [(1, "id", INT, -1), (2, "name", TEXT, -1), (3, "price", NUMERIC, 655366)]


def made(columns=COLUMNS, *, key=("id",), file=7, missing=(), parts=None) -> Form:
    files = [(5, file)] if parts is None else parts
    return form(5, columns, key, files, missing, partitioned=parts is not None)


STOOD = made()
ROOT = made(parts=[(11, 1), (12, 2)])


@pytest.mark.parametrize(
    ("old", "new", "asked"),
    [
        (STOOD, made(), Needs()),
        (STOOD, made(COLUMNS[:2]), Needs()),
        (STOOD, made([*COLUMNS, (4, "note", TEXT, -1)]), Needs()),
        (STOOD, made([*COLUMNS, (4, "note", TEXT, -1)], missing=[4]), Needs(backfill=True)),
        (made(COLUMNS[:2]), made([*COLUMNS[:2], (4, "note", TEXT, -1)], missing=[4]), Needs(backfill=True)),
        (STOOD, made([COLUMNS[0], (2, "title", TEXT, -1), COLUMNS[2]]), Needs(backfill=True)),
        (STOOD, made([*COLUMNS[:2], (3, "price", NUMERIC, 786438)]), Needs()),
        (STOOD, made([(1, "id", BIGINT, -1), *COLUMNS[1:]]), Needs(load=True)),
        (STOOD, made(key=("name",)), Needs(load=True)),
        (STOOD, made(file=8), Needs()),
        (ROOT, made(parts=[(11, 1), (12, 2), (13, 3)]), Needs(parts=(13,))),
        (ROOT, made(parts=[(11, 1)]), Needs(load=True)),
    ],
)
def test_a_change_asks_for_no_more_than_it_must(old, new, asked):
    assert needs(old, new, rewritten=False) == asked


def test_where_nobody_tells_another_file_means_other_rows():
    assert needs(STOOD, made(file=8), rewritten=True) == Needs(backfill=True)


@pytest.mark.parametrize(
    ("file", "files", "has_moved"),
    [
        (ROOT.file, [(11, 1, 60), (12, 2, 70)], False),
        (ROOT.file, [(11, 1, 60), (12, 9, 70)], True),
        (ROOT.file, [(11, 1, 60), (12, 2, 70), (13, 3, 80)], False),  # one came
        (ROOT.file, [(11, 1, 60), (12, 9, 70), (13, 3, 80)], True),
        (-90, [(11, 8, 90), (12, 9, 90), (13, 3, 95)], False),  # all emptied by one TRUNCATE, of the root
        (-90, [(11, 8, 90), (12, 9, 91)], True),
        (0, [(11, 1, 60), (12, 2, 70)], True),  # not known
    ],
)
def test_a_partition_that_was_emptied_alone_shows_by_its_file(file, files, has_moved):
    stood = retold(replace(ROOT, file=file), files)
    assert moved(stood, [(oid, of) for oid, of, _ in files]) is has_moved
    assert needs(stood, stood, rewritten=False, elsewhere=has_moved) == Needs(load=has_moved)


@pytest.mark.parametrize(
    ("filed_by", "shaped_by", "asked"),
    [
        ({90}, {70}, Needs()),
        ({91}, {70}, Needs(backfill=True)),  # rewritten since, or altered otherwise
        ({90}, {70, 90}, Needs(backfill=True)),  # by the same transaction
        ({90, 91}, {70}, Needs(backfill=True)),
    ],
)
def test_the_file_behind_a_truncate_is_known_by_who_made_it(filed_by, shaped_by, asked):
    table = Table(
        oid=5,
        schema="public",
        name="items",
        fields=(),
        key=(),
        identity="d",
        partitioned=False,
        estimated_rows=0.0,
        bytes=0,
        file=8,
        filed_by=frozenset(filed_by),
        shaped_by=frozenset(shaped_by),
    )
    stood = form_of(table)
    assert needs(refiled(emptied(stood, 90), table), stood, rewritten=True) == asked
    assert refiled(stood, table) == stood


def test_a_partition_that_was_made_empty_brings_no_rows():
    assert needs(ROOT, made(parts=[(11, 1), (12, 2), (13, 3)]), rewritten=False, empty=13) == Needs()


def test_a_position_keeps_forms_and_what_is_due():
    position = Position(
        system="1",
        database=2,
        slot="s",
        timeline=1,
        lsn=99,
        tables={
            "public.a": Known(version=3, print="p", form=STOOD),
            "public.b": Known(version=1, print="q", form=ROOT),
            "public.c": Known(version=1, print="of an earlier release"),
        },
        due={"public.b": 12},
        backfills={"public.a": Backfill(cursor=("7",), rows=7, since=4, part=13)},
    )
    assert Position.parse(position.to_text()) == position
    assert position.unfinished == ("public.a", "public.b")


ADDRESS = parse_address("shop", "postgresql://u@h/d?slot=mine")


def message(content: object, *, prefix: str = "raypipe", transactional: bool = True) -> Message:
    text = content if isinstance(content, str) else json.dumps(content)
    return Message(transactional=transactional, lsn=1, prefix=prefix, content=text.encode())


def test_messages_that_are_ours_are_read():
    dropped = {"slot": "mine", "event": "sql_drop", "tag": "DROP TABLE", "oids": [5, 6]}
    assert read(message(dropped), ADDRESS) == Dropped(oids=(5, 6), command="DROP TABLE")
    rewritten = {"slot": "mine", "event": "table_rewrite", "tag": "ALTER TABLE", "oid": 5, "reason": 4}
    assert read(message(rewritten), ADDRESS) == Rewritten(oid=5, files=(), command="ALTER TABLE")
    assert read(message({**rewritten, "reason": 8}), ADDRESS) is None
    columns = [{"number": n, "name": name, "type": t, "typmod": m, "missing": False} for n, name, t, m in COLUMNS]
    altered = {
        "slot": "mine",
        "event": "ddl_command_end",
        "tag": "ALTER TABLE",
        "object": 5,
        "oid": 5,
        "schema": "public",
        "table": "a",
        "kind": "r",
        "files": [[5, 7]],
        "columns": columns,
        "key": ["id"],
    }
    told = read(message(altered), ADDRESS)
    assert isinstance(told, Altered)
    assert (told.path, told.form, told.made) == ("public.a", STOOD, 0)


@pytest.mark.parametrize(
    "content",
    [
        "mine",
        "{",
        "{}",
        "[]",
        '{"slot": "mine"}',
        '{"slot": "other", "event": "sql_drop"}',
        '{"slot": "mine", "event": 1}',
        '{"slot": "mine", "event": "ddl_command_end", "tag": "x", "columns": 3}',
    ],
)
def test_whatever_else_comes_under_our_prefix_is_nothing(content):
    assert read(message(content), ADDRESS) is None


def test_nothing_that_is_not_transactional_counts():
    dropped = {"slot": "mine", "event": "sql_drop", "tag": "DROP TABLE", "oids": [5]}
    assert read(message(dropped, transactional=False), ADDRESS) is None
    assert read(message(dropped, prefix="others"), ADDRESS) is None
