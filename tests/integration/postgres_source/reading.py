"""Reads a PostgreSQL source and folds its changes, key images too, as a sink would."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
from pg8000.exceptions import DatabaseError
from postgres_database import Database

from raypipe.contracts import Piece
from raypipe.model import IMAGE, OP, ChangeBatch, Image, Op
from raypipe.sources import open_source
from raypipe.verify import Report

PLENTY = 1 << 24
ABSENT = {Op.UPDATE_BEFORE, Op.DELETE}


class Held:
    """What a sink would hold of one table: values by column, and NULL in a column that a row says nothing of."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.keyed: dict[tuple, dict] = {}
        self.rows: Counter[tuple] = Counter()

    def fold(self, batch: ChangeBatch) -> None:
        names, key = batch.schema.names, batch.schema.key
        self.names = names
        for row in batch.rows.to_pylist():
            op, image = Op(row[OP]), Image(row[IMAGE])
            values = {name: _plain(row[name]) for name in names}
            assert image is not Image.PARTIAL
            if op is Op.TRUNCATE:
                self.keyed.clear()
                self.rows.clear()
            elif key:
                identity = tuple(row[name] for name in key)
                if op in ABSENT and image is Image.FULL:
                    known = self.keyed.get(identity, {})
                    assert {name: known.get(name) for name in names} == values, f"{op.name} of a row that is not there"
                if op in ABSENT:
                    self.keyed.pop(identity, None)
                else:
                    self.keyed[identity] = values
            else:
                assert image is Image.FULL
                whole = tuple((name, value) for name, value in values.items() if value is not None)
                self.rows[whole] += op.weight
                assert self.rows[whole] >= 0

    def present(self, names: Sequence[str] = ()) -> Counter[tuple]:
        """The rows, with the columns that are named or else those of the last change."""
        rows = [*self.keyed.values(), *(dict(row) for row in self.rows.elements())]
        return Counter(tuple(row.get(name) for name in names or self.names) for row in rows)


class Reading:
    """A source that is read, from the position of its last piece on."""

    def __init__(self, database: Database, tables: Sequence[str], **options: str) -> None:
        self.database = database
        self.tables = tuple(tables)
        self.options = options
        self.source = self._make()
        self.position: str | None = None
        self.loading: tuple[str, ...] = ()
        self.whole = True
        self.held: dict[str, Held] = {}
        self.changes: list[tuple[str, Op, tuple]] = []
        self.batches: list[ChangeBatch] = []

    def _make(self):
        return open_source("shop", self.database.url_with(**self.options), self.tables)

    def open(self, reload: Sequence[str] = ()) -> Reading:
        self.source.close()
        self.source = self._make()
        self.source.open(self.position, reload)
        return self

    def step(self, max_bytes: int = PLENTY, upto: str | None = None) -> Piece | None:
        piece = self.source.poll(max_bytes, upto)
        if piece is not None:
            for batch in piece.batches:
                self.held.setdefault(batch.schema.table.table, Held()).fold(batch)
                self.batches.append(batch)
                for row in batch.rows.to_pylist():
                    values = tuple(_plain(row[name]) for name in batch.schema.names)
                    self.changes.append((batch.schema.table.table, Op(row[OP]), values))
            self.position, self.loading, self.whole = piece.position, piece.loading, piece.boundary
        return piece

    def drain(self, max_bytes: int = PLENTY, upto: str | None = None) -> list[Piece]:
        self.changes, self.batches = [], []
        pieces = []
        while (piece := self.step(max_bytes, upto)) is not None:
            pieces.append(piece)
        return pieces

    def until_loaded(self, max_bytes: int = PLENTY) -> Reading:
        while self.step(max_bytes) is not None or self.loading or not self.whole:
            self.source.wait(0.05)
        return self

    def ops(self, table: str) -> list[Op]:
        return [op for of, op, _ in self.changes if of == table]

    def present(self, table: str, names: Sequence[str] = ()) -> Counter[tuple]:
        return self.held[table].present(names) if table in self.held else Counter()

    def agree(self, max_bytes: int = PLENTY) -> None:
        """At the position of a view the changes add up to the view."""
        with self._make().view() as view:
            while self.step(max_bytes, view.position) is not None:
                pass
            assert self.whole
            for table in self.tables:
                name = table.rpartition(".")[2]
                expected = list(view.rows(f"shop.{name}"))
                names = expected[0].schema.names if expected else ()
                assert self.present(name, names) == rows_of(expected), name

    def close(self) -> None:
        self.source.close()


def rows_of(batches: Iterable[pa.RecordBatch]) -> Counter[tuple]:
    return Counter(tuple(_plain(value) for value in row.values()) for batch in batches for row in batch.to_pylist())


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# A deadlock, or a key that another writer has taken: the transaction comes to nothing, which is no failure.
EXPECTED = ("40P01", "23505", "40001")
# Where others alter the tables: a name is not there, or means another type.
ALTERED = (*EXPECTED, "42703", "42P01", "42804", "23502", "23514")


@contextmanager
def writers(
    database: Database,
    count: int,
    seed: int,
    choose: Callable[[random.Random], list[str]],
    expected: Sequence[str] = EXPECTED,
) -> Iterator[None]:
    """Connections that write one transaction after another until the block ends.

    Args:
        database: To write to.
        count: Of connections.
        seed: Of their choices.
        choose: Statements of the next transaction, the last of which ends it.
        expected: Codes of errors that end a transaction and are no failure.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def run(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        connection = database.connect()
        try:
            connection.execute_simple("SET deadlock_timeout = '20ms'")
            while not stop.is_set():
                connection.execute_simple("BEGIN")
                try:
                    for statement in choose(chance):
                        connection.execute_simple(statement)
                except DatabaseError as error:
                    if error.args[0]["C"] not in expected:
                        raise
                    connection.execute_simple("ROLLBACK")
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]


def wrong(report: Report) -> dict[str, tuple[int, int, int]]:
    """Of each sink table that a verification found wrong: rows missing, extra and different."""
    return {
        f"{table.sink}.{table.table}": (table.missing, table.extra, table.different)
        for table in report.tables
        if not table.ok
    }
