"""Every implementation of ``Sink``, for the conformance suite: a new one is a new entry in ``SINKS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import adbc_driver_sqlite.dbapi
import deltalake
import duckdb
import pyarrow as pa

from raypipe.contracts import Sink
from raypipe.model import SinkTable
from raypipe.plan.model import SinkPlan
from raypipe.sinks import open_sinks
from raypipe.sinks.sharding import Shard
from raypipe.sinks.sql.sqlite import SqliteDialect
from raypipe.sinks.sql.store import SqlStore
from raypipe.sinks.transactional import TransactionalSink

# A test that waits for another writer's lock shall not wait long.
LOCK_WAIT_MS = 20


@dataclass(frozen=True, kw_only=True)
class SinkMaker:
    """How the suite gets at one implementation.

    Attributes:
        name: Of the implementation.
        make: New objects, not open, for all units of commit of one sink whose store lies in a folder. Called again
            with the same folder it gives objects over the same store.
        plant: Puts a table into the store that raypipe did not make.
    """

    name: str
    make: Callable[[Path, tuple[SinkTable, ...]], list[Sink]]
    plant: Callable[[Path, str], None]

    def __str__(self) -> str:
        return self.name


def make_duckdb(folder: Path, tables: tuple[SinkTable, ...]) -> list[Sink]:
    return open_sinks(SinkPlan(name="w", url=f"duckdb:///{folder}/w.duckdb", tables=tables), "p")


def plant_in_duckdb(folder: Path, table: str) -> None:
    with duckdb.connect(str(folder / "w.duckdb")) as connection:
        connection.execute(f"CREATE TABLE {table} (id BIGINT)")


def make_sqlite(folder: Path, tables: tuple[SinkTable, ...], shards: int = 1) -> list[Sink]:
    return [
        TransactionalSink(
            name=f"w.{index}",
            tables=tables,
            store=SqlStore(
                dialect=SqliteDialect(str(folder / f"w{index}.db"), LOCK_WAIT_MS), pipeline="p", sink=f"w.{index}"
            ),
            shard=Shard(index=index, count=shards),
        )
        for index in range(shards)
    ]


def make_shards(folder: Path, tables: tuple[SinkTable, ...]) -> list[Sink]:
    return make_sqlite(folder, tables, shards=3)


def plant_in_sqlite(folder: Path, table: str) -> None:
    path = str(folder / "w0.db")
    with adbc_driver_sqlite.dbapi.connect(path, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id BIGINT)")


def make_delta(folder: Path, tables: tuple[SinkTable, ...]) -> list[Sink]:
    return open_sinks(SinkPlan(name="w", url=f"delta:///{folder}/w", tables=tables), "p")


def plant_in_delta(folder: Path, table: str) -> None:
    deltalake.write_deltalake(folder / "w" / table, pa.table({"id": [1]}))


SINKS = (
    SinkMaker(name="duckdb", make=make_duckdb, plant=plant_in_duckdb),
    SinkMaker(name="sqlite", make=make_sqlite, plant=plant_in_sqlite),
    SinkMaker(name="sqlite-shards", make=make_shards, plant=plant_in_sqlite),
    SinkMaker(name="delta", make=make_delta, plant=plant_in_delta),
)
