"""The rules of ``contracts/source.py``, each a function that fails an assertion if a source breaks it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pytest

from raypipe.contracts import MayTear, Piece, Source
from raypipe.errors import RaypipeError, SchemaMismatch, SourceGap
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, TIME, ChangeBatch, Image, Op

PLENTY = 1 << 24  # bytes: everything in one piece
LITTLE = 2_000  # bytes: a few rows in a piece

# No rule has a source tell more changes than this: one that does begins again and again, without end.
MOST_CHANGES = 10_000

# What the databases of all makers begin with: two tables with a key, one without.
TABLES = ("accounts", "moves", "notes")
SCRIPT = (
    "CREATE TABLE accounts(id INTEGER PRIMARY KEY, owner TEXT, balance INTEGER)",
    "CREATE TABLE moves(id INTEGER PRIMARY KEY, account INTEGER, amount INTEGER)",
    "CREATE TABLE notes(body TEXT)",
)


class Database(Protocol):
    """A database of some kind, and its writer."""

    def write(self, *statements: str) -> None:
        """Runs statements of plain SQL in one transaction."""

    def roll_back(self, *statements: str) -> None:
        """Runs statements in a transaction that comes to nothing."""

    def source(self, tables: Sequence[str]) -> Source:
        """A source object on it, not opened."""

    def close(self) -> None: ...


class Reading:
    """A source that is read, and what its changes add up to."""

    def __init__(self, database: Database, tables: Sequence[str] = TABLES) -> None:
        self.database = database
        self.chosen = tables
        self.source = database.source(tables)
        self.position: str | None = None
        self.loading: tuple[str, ...] = ()
        self.held: dict[str, Counter[tuple]] = {}
        self.changes: list[tuple[str, Op, tuple]] = []

    def open(self, reload: Sequence[str] = ()) -> Reading:
        self.source.close()
        self.source = self.database.source(self.chosen)
        self.source.open(self.position, reload)
        return self

    def step(self, max_bytes: int = PLENTY, upto: str | None = None) -> Piece | None:
        piece = self.source.poll(max_bytes, upto)
        if piece is not None:
            for batch in piece.batches:
                self.fold(batch)
            self.position, self.loading = piece.position, piece.loading
        return piece

    def drain(self, max_bytes: int = PLENTY, upto: str | None = None) -> list[Piece]:
        self.changes = []
        pieces: list[Piece] = []
        while (piece := self.step(max_bytes, upto)) is not None:
            pieces.append(piece)
            assert len(pieces) < MOST_CHANGES, "the source does not come to an end"
        return pieces

    def fold(self, batch: ChangeBatch) -> None:
        table = str(batch.schema.table)
        if table.rpartition(".")[2] not in self.chosen:
            return  # a table of the source's own, such as a quarantine
        held = self.held.setdefault(table, Counter())
        for row in batch.rows.to_pylist():
            op, values = Op(row[OP]), tuple(row[name] for name in batch.schema.names)
            self.changes.append((table, op, values))
            assert len(self.changes) < MOST_CHANGES, "the source does not come to an end"
            if op is Op.TRUNCATE:
                held.clear()
            else:
                held[values] += op.weight
                assert held[values] >= 0, f"{op.name} of a row of {table} that is not there"

    def ops(self, table: str) -> list[Op]:
        return [op for of, op, _ in self.changes if of == f"shop.{table}"]

    def present(self, table: str) -> Counter[tuple]:
        return +self.held.get(f"shop.{table}", Counter())


class Stage:
    """A place for the databases and readings of one rule."""

    def __init__(self, make: Callable[[Path], Database], folder: Path) -> None:
        self._make = make
        self._folder = folder
        self._databases: list[Database] = []
        self._readings: list[Reading] = []

    def database(self) -> Database:
        folder = self._folder / str(len(self._databases))
        folder.mkdir(parents=True)
        database = self._make(folder)
        self._databases.append(database)
        database.write(*SCRIPT)
        return database

    def reading(self, database: Database, tables: Sequence[str] = TABLES) -> Reading:
        reading = Reading(database, tables)
        self._readings.append(reading)
        return reading

    def clear(self) -> None:
        for each in (*(reading.source for reading in self._readings), *self._databases):
            each.close()


def accounts(count: int) -> str:
    return "INSERT INTO accounts VALUES " + ", ".join(f"({number}, 'o{number}', 0)" for number in range(1, count + 1))


def places(pieces: Iterable[Piece]) -> list[tuple[int, int]]:
    """Where all changes lie in the source's order."""
    rows = [row for piece in pieces for batch in piece.batches for row in batch.rows.to_pylist()]
    return [(row[COMMIT], row[ORDINAL]) for row in rows]


def rows_of(batches: Iterable[pa.RecordBatch]) -> Counter[tuple]:
    return Counter(tuple(row.values()) for batch in batches for row in batch.to_pylist())


def assert_agrees(reading: Reading, max_bytes: int = PLENTY) -> None:
    """At the position of a view, the changes add up to the view."""
    with reading.database.source(reading.chosen).view() as view:
        reading.drain(max_bytes, upto=view.position)
        if reading.loading:
            reading.drain(max_bytes)  # nobody writes meanwhile
        for table in reading.chosen:
            assert reading.present(table) == rows_of(view.rows(f"shop.{table}")), table


# Loading


def a_load_begins_with_a_truncate_and_brings_every_row(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(3), "INSERT INTO notes VALUES ('same'), ('same')")
    reading = stage.reading(database).open()
    reading.drain()
    assert reading.ops("accounts") == [Op.TRUNCATE, Op.READ, Op.READ, Op.READ]
    assert reading.ops("moves") == [Op.TRUNCATE]
    assert reading.present("notes") == Counter({("same",): 2})
    assert reading.loading == ()
    assert_agrees(reading)


def a_large_load_comes_in_pieces_and_says_so(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(600))
    reading = stage.reading(database).open()
    begun = reading.step(LITTLE)
    assert begun is not None
    assert "shop.accounts" in begun.loading
    assert reading.source.progress().keys() == set(begun.loading)
    assert all(0 <= share <= 1 for share in reading.source.progress().values())
    pieces = reading.drain(LITTLE)
    assert len(pieces) > 1
    assert pieces[-1].loading == ()
    assert len(reading.present("accounts")) == 600
    assert not reading.source.progress()


def a_load_goes_on_where_it_stopped(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(600))
    reading = stage.reading(database).open()
    while reading.step(LITTLE) is not None:
        reading.open()
    assert reading.ops("accounts") == [Op.TRUNCATE] + [Op.READ] * 600


def a_table_that_changes_while_it_is_loaded_arrives_whole(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(300), "INSERT INTO notes VALUES ('a'), ('b'), ('c')")
    reading = stage.reading(database).open()
    number = 0
    while reading.step(LITTLE) is not None and number < 40:
        number += 1
        database.write(
            f"UPDATE accounts SET balance = balance + 1 WHERE id % 7 = {number % 7}",
            f"DELETE FROM accounts WHERE id = {number * 5}",
            f"UPDATE accounts SET id = id + 1000 WHERE id = {number * 5 + 1}",
            f"INSERT INTO notes VALUES ('n{number}')",
        )
    assert_agrees(reading, LITTLE)


def a_reload_loads_the_named_tables_again_and_no_other(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(2), "INSERT INTO notes VALUES ('a')")
    reading = stage.reading(database).open()
    reading.drain()
    reading.open(reload=["shop.accounts"]).drain()
    assert reading.ops("accounts") == [Op.TRUNCATE, Op.READ, Op.READ]
    assert reading.ops("notes") == []
    assert_agrees(reading)


def a_reload_lies_behind_all_that_was_told(stage: Stage) -> None:
    """Else a history, which keeps both loads, could not tell the rows of one from those of the other."""
    database = stage.database()
    database.write("INSERT INTO notes VALUES ('same'), ('same')")
    reading = stage.reading(database).open()
    before = places(reading.drain())
    for _ in range(2):
        after = places(reading.open(reload=["shop.notes"]).drain())
        assert reading.ops("notes") == [Op.TRUNCATE, Op.READ, Op.READ]
        assert min(after) > max(before)
        assert len(set(after)) == 2  # the TRUNCATE, and the rows behind it
        before = after


# Streaming


def every_change_arrives_in_order_with_its_images(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    database.write("INSERT INTO accounts VALUES (1, 'ann', 5)")
    database.write("UPDATE accounts SET balance = 6")
    database.write("UPDATE accounts SET balance = 7, owner = NULL", "DELETE FROM accounts")
    reading.drain()
    assert reading.changes == [
        ("shop.accounts", Op.INSERT, (1, "ann", 5)),
        ("shop.accounts", Op.UPDATE_BEFORE, (1, "ann", 5)),
        ("shop.accounts", Op.UPDATE_AFTER, (1, "ann", 6)),
        ("shop.accounts", Op.UPDATE_BEFORE, (1, "ann", 6)),
        ("shop.accounts", Op.UPDATE_AFTER, (1, None, 7)),
        ("shop.accounts", Op.DELETE, (1, None, 7)),
    ]


def batches_have_the_shape_of_the_contract(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(2))
    reading = stage.reading(database).open()
    pieces = reading.drain()
    database.write("UPDATE accounts SET balance = 1", "DELETE FROM accounts WHERE id = 1")
    pieces += reading.drain()
    last: dict[str, tuple[int, int]] = {}
    for batch in [batch for piece in pieces for batch in piece.batches]:
        assert batch.num_rows
        assert batch.rows.schema.equals(ChangeBatch.arrow_schema(batch.schema))
        table, before = str(batch.schema.table), None
        for row in batch.rows.to_pylist():
            op, place = Op(row[OP]), (row[COMMIT], row[ORDINAL])
            assert row[IMAGE] in set(Image)
            if op is Op.UPDATE_AFTER and before is Op.UPDATE_BEFORE:
                assert place == last[table], "the images of an update lie at one place"
            elif op in (Op.TRUNCATE, Op.READ):
                assert place >= last.get(table, place)
            else:
                assert place > last.get(table, (0, 0)), "a change lies behind the one before"
                assert row[TIME] is not None
            last[table], before = place, op
    assert {schema.table.table for schema in reading.source.tables()} == set(TABLES)
    assert next(s for s in reading.source.tables() if s.table.table == "notes").key == ()


def a_changed_key_takes_the_row_along(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(2))
    reading = stage.reading(database).open()
    reading.drain()
    database.write("UPDATE accounts SET id = id + 10")
    reading.drain()
    assert reading.present("accounts") == Counter({(11, "o1", 0): 1, (12, "o2", 0): 1})


def equal_rows_of_a_table_without_a_key_are_counted(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    database.write("INSERT INTO notes VALUES ('x'), ('x'), (NULL)")
    reading.drain()
    database.write("INSERT INTO notes VALUES ('x')")
    reading.drain()
    assert reading.present("notes") == Counter({("x",): 3, (None,): 1})
    database.write("UPDATE notes SET body = 'y' WHERE body = 'x'")
    assert_agrees(reading)


def what_is_rolled_back_is_not_seen(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(2))
    reading = stage.reading(database).open()
    reading.drain()
    database.roll_back("DELETE FROM accounts", "INSERT INTO notes VALUES ('never')")
    assert reading.drain() == []


def a_cut_never_tears_a_transaction(stage: Stage) -> None:
    """Every transaction writes as many rows to one table as to another."""
    database = stage.database()
    reading = stage.reading(database).open()
    torn = isinstance(reading.source, MayTear) and reading.source.tears()
    reading.drain()
    for first in range(0, 400, 40):
        both = [f"({number}, 1, 1)" for number in range(first, first + 40)]
        database.write(*(f"INSERT INTO {table} VALUES {', '.join(both)}" for table in ("accounts", "moves")))
    cuts = 0
    while (piece := reading.step(LITTLE)) is not None:
        if piece.boundary:
            cuts += 1
            # A source that says that it may tear them must at least bring all of them in the end.
            assert torn or len(reading.present("accounts")) == len(reading.present("moves"))
    assert cuts
    assert len(reading.present("accounts")) == len(reading.present("moves"))
    assert len(reading.present("moves")) == 400


def many_small_transactions_share_a_piece(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    for number in range(50):
        database.write(f"INSERT INTO notes VALUES ('{number}')")
    assert len(reading.drain()) < 25  # one, unless the server is slow to tell
    assert reading.ops("notes") == [Op.INSERT] * 50


def an_idle_source_has_no_piece_and_a_change_ends_the_wait(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    assert reading.step() is None
    database.write("INSERT INTO notes VALUES ('news')")
    began = time.monotonic()
    reading.source.wait(200)
    assert time.monotonic() - began < 100
    assert reading.step() is not None


# Positions


def a_position_goes_on_exactly_behind_its_piece(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    database.write(accounts(100), "UPDATE accounts SET balance = 1", "DELETE FROM accounts WHERE id > 50")
    reading.changes = []
    while reading.step(LITTLE) is not None:
        reading.open()
    assert len(reading.ops("accounts")) == 100 + 200 + 50
    assert_agrees(reading)


def what_is_not_acknowledged_comes_again(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    reading.source.acknowledge(reading.position)
    before = reading.position
    first = []
    for change in (accounts(20), "UPDATE accounts SET balance = 1", "DELETE FROM accounts WHERE id > 10"):
        database.write(change)
        reading.drain()
        first += reading.changes
    reading.position = before
    reading.open()
    reading.held.clear()
    reading.drain()
    assert reading.changes == first


def what_is_acknowledged_may_go_and_the_position_still_serves(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    for number in range(3):
        database.write(f"INSERT INTO notes VALUES ('{number}')")
        reading.drain()
        reading.source.acknowledge(reading.position)
        reading.source.wait(0)
    reading.open()
    assert reading.drain() == []
    database.write("INSERT INTO notes VALUES ('more')")
    assert_agrees(reading)


def a_piece_ends_at_the_position_of_a_view(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    database.write(accounts(100))
    with database.source(TABLES).view() as view:
        database.write("DELETE FROM accounts")
        pieces = reading.drain(LITTLE, upto=view.position)
        assert [piece.boundary for piece in pieces[-1:]] == [True]
        assert len(reading.present("accounts")) == 100
        assert rows_of(view.rows("shop.accounts")) == reading.present("accounts")
    reading.drain()
    assert reading.present("accounts") == Counter()


def a_view_stands_still(stage: Stage) -> None:
    database = stage.database()
    database.write(accounts(3))
    stage.reading(database).open().drain()
    with database.source(TABLES).view() as view:
        database.write("DELETE FROM accounts", "INSERT INTO notes VALUES ('later')")
        assert sum(batch.num_rows for batch in view.rows("shop.accounts")) == 3
        assert sum(batch.num_rows for batch in view.rows("shop.notes")) == 0
        assert view.parked("shop.accounts") == 0


def another_database_is_refused(stage: Stage) -> None:
    database, other = stage.database(), stage.database()
    for each in (database, other):
        each.write(accounts(3))
    reading = stage.reading(database).open()
    reading.drain()
    stage.reading(other).open().drain()
    with pytest.raises(SourceGap):
        other.source(TABLES).open(reading.position)


# The object


def tables_can_be_looked_at_before_anything_is_opened(stage: Stage) -> None:
    schemas = stage.database().source(("moves", "notes")).tables()
    assert [(str(schema.table), schema.key, schema.version) for schema in schemas] == [
        ("shop.moves", ("id",), 1),
        ("shop.notes", (), 1),
    ]
    assert schemas[0].names == ("id", "account", "amount")


def a_missing_table_is_refused_with_the_names_of_the_others(stage: Stage) -> None:
    source = stage.database().source(("acounts",))
    with pytest.raises(SchemaMismatch, match="accounts"):
        source.tables()


def closing_twice_is_no_error_and_a_closed_source_opens_again(stage: Stage) -> None:
    database = stage.database()
    reading = stage.reading(database).open()
    reading.drain()
    reading.source.close()
    reading.source.close()
    with pytest.raises(RaypipeError):
        reading.source.poll(PLENTY)
    reading.source.open(reading.position)
    database.write("INSERT INTO notes VALUES ('n')")
    assert_agrees(reading)


RULES: tuple[Callable[[Stage], None], ...] = (
    a_load_begins_with_a_truncate_and_brings_every_row,
    a_large_load_comes_in_pieces_and_says_so,
    a_load_goes_on_where_it_stopped,
    a_table_that_changes_while_it_is_loaded_arrives_whole,
    a_reload_loads_the_named_tables_again_and_no_other,
    a_reload_lies_behind_all_that_was_told,
    every_change_arrives_in_order_with_its_images,
    batches_have_the_shape_of_the_contract,
    a_changed_key_takes_the_row_along,
    equal_rows_of_a_table_without_a_key_are_counted,
    what_is_rolled_back_is_not_seen,
    a_cut_never_tears_a_transaction,
    many_small_transactions_share_a_piece,
    an_idle_source_has_no_piece_and_a_change_ends_the_wait,
    a_position_goes_on_exactly_behind_its_piece,
    what_is_not_acknowledged_comes_again,
    what_is_acknowledged_may_go_and_the_position_still_serves,
    a_piece_ends_at_the_position_of_a_view,
    a_view_stands_still,
    another_database_is_refused,
    tables_can_be_looked_at_before_anything_is_opened,
    a_missing_table_is_refused_with_the_names_of_the_others,
    closing_twice_is_no_error_and_a_closed_source_opens_again,
)
