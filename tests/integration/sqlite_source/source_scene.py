"""A database with a writer that knows nothing of raypipe, and a follower that rebuilds its tables from the stream."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from raypipe.contracts import Piece
from raypipe.model import COMMIT, IMAGE, OP, ORDINAL, RESERVED_PREFIX, ChangeBatch, Image, Op, TableSchema
from raypipe.sources import open_source
from raypipe.sources.sqlite import SqliteSource

QUARANTINE = "shop._raypipe_quarantine"
PLENTY = 1 << 24  # bytes: everything in one piece
LITTLE = 1  # byte: as many pieces as there can be


class Database:
    """A SQLite file and its writer."""

    def __init__(self, folder: Path, *script: str, journal: str = "wal") -> None:
        self.path = folder / "shop.db"
        self.writer = sqlite3.connect(self.path, isolation_level=None)
        self.write(f"PRAGMA journal_mode={journal}", *script)

    def write(self, *statements: str) -> None:
        """Runs statements, each its own transaction unless the script says BEGIN."""
        for statement in statements:
            self.writer.execute(statement).fetchall()

    def follow(self, *tables: str) -> Follower:
        """Opens a source and reads all there is."""
        return Follower(self, tables)

    def objects(self) -> set[str]:
        """Names of everything in the file."""
        return {name for (name,) in self.writer.execute("SELECT name FROM sqlite_master")}


class Follower:
    """Folds the stream and checks it as it comes.

    It is folded in both ways that sinks do it: as a sum of weights (``tables``), and as the last image of each key
    (``latest``). What must hold whatever was written: images have the schema's columns, (commit, ordinal) never goes
    back, both images of an update are neighbours.
    """

    def __init__(self, database: Database, tables: Sequence[str]) -> None:
        self.database = database
        self.chosen = tables
        self.tables: dict[str, Counter[tuple]] = {}
        self.position: str | None = None
        self.loading: tuple[str, ...] = ()
        self.parked = 0
        self.reached = (0, 0)
        self.ops: list[Op] = []
        self.keyed: dict[str, bool] = {}
        self.latest: dict[str, dict[tuple, tuple]] = {}
        self.source = self.make()
        self.source.open(None)
        self.drain()

    def make(self) -> SqliteSource:
        source = open_source("shop", f"sqlite:///{self.database.path}", self.chosen)
        assert isinstance(source, SqliteSource)
        return source

    def reopen(self, reload: Sequence[str] = ()) -> None:
        """As after a crash: a new object at the last position."""
        self.source.close()
        self.source = self.make()
        self.source.open(self.position, reload)

    def step(self, max_bytes: int = PLENTY, upto: str | None = None) -> Piece | None:
        """One piece, folded."""
        piece = self.source.poll(max_bytes, upto)
        if piece is not None:
            places = [place for batch in piece.batches for place in self.fold(batch)]
            assert min(places, default=self.reached) >= self.reached
            self.reached = max(places, default=self.reached)
            assert piece.position != self.position
            self.position, self.loading = piece.position, piece.loading
            self.parked += piece.parked
            assert self.parked == sum(self.tables.get(QUARANTINE, Counter()).values())
        return piece

    def drain(self, max_bytes: int = PLENTY, upto: str | None = None) -> list[Piece]:
        """All there is to read, and the ops that came, in ``ops``."""
        self.ops = []
        pieces = []
        while (piece := self.step(max_bytes, upto)) is not None:
            pieces.append(piece)
        return pieces

    def fold(self, batch: ChangeBatch) -> list[tuple[int, int]]:
        """Applies a batch; returns the places of its rows in the source's order."""
        assert batch.num_rows
        assert batch.rows.schema.equals(ChangeBatch.arrow_schema(batch.schema))
        batch.rows.validate(full=True)
        table = str(batch.schema.table)
        rows = batch.rows.to_pylist()
        places = [(row[COMMIT], row[ORDINAL]) for row in rows]
        assert places == sorted(places)
        for place, row in enumerate(rows):
            op = Op(row[OP])
            assert row[IMAGE] == Image.FULL
            before = rows[place - 1] if place else row
            if op is Op.UPDATE_AFTER and places[place - 1] == places[place] and place:
                assert before[OP] == Op.UPDATE_BEFORE
            if table != QUARANTINE:
                self.ops.append(op)
            self.apply(batch.schema, op, row)
        return places

    def apply(self, schema: TableSchema, op: Op, row: dict) -> None:
        self.keyed[str(schema.table)] = bool(schema.key)
        held = self.tables.setdefault(str(schema.table), Counter())
        latest = self.latest.setdefault(str(schema.table), {})
        values, key = values_of(row), values_of({name: row[name] for name in schema.key})
        if op is Op.TRUNCATE:
            held.clear()
            latest.clear()
            return
        held[values] += op.weight
        if not held[values]:
            del held[values]
        if op.weight > 0:
            latest[key] = values
        else:
            latest.pop(key, None)

    def close(self) -> None:
        self.source.close()


def values_of(row: dict) -> tuple:
    """A row by column name; NULLs left out, so that a column that came later makes no difference."""
    named = ((name, repr(value)) for name, value in row.items() if value is not None)
    return tuple(pair for pair in named if not pair[0].startswith(RESERVED_PREFIX))


def rows_of(batches: Iterator[pa.RecordBatch]) -> Counter[tuple]:
    return Counter(values_of(row) for batch in batches for row in batch.to_pylist())


def assert_agrees(follower: Follower) -> None:
    """What the stream adds up to is what the tables hold, at the position of one read transaction."""
    with follower.make().view() as view:
        pieces = follower.drain(upto=view.position)
        assert not pieces or pieces[-1].boundary
        if follower.loading:  # nobody writes now, so the rest lies at the same position
            follower.drain()
        for table in [f"shop.{table}" for table in follower.chosen]:
            present = rows_of(view.rows(table))
            assert follower.tables.get(table, Counter()) == present
            if follower.keyed[table]:
                assert Counter(follower.latest[table].values()) == present
        assert follower.parked == sum(view.parked(f"shop.{table}") for table in follower.chosen)


@contextmanager
def following(folder: Path, tables: Sequence[str], *script: str, journal: str = "wal") -> Iterator[Follower]:
    """A database made by a script, and a follower that has read it all."""
    follower = Database(folder, *script, journal=journal).follow(*tables)
    try:
        yield follower
    finally:
        follower.close()
        follower.database.writer.close()
