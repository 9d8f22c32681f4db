"""A PostgreSQL and a Kafka of a benchmark's own, on this machine's loopback, removed afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import CannotRun
from cluster.services.home import Home, open_home
from cluster.services.kafka import KafkaCluster
from cluster.services.postgres import PostgresServer
from cluster.services.process import ServiceError
from cluster.services.servers import private_kafka, private_postgres

# Debian's: it has pg_recvlogical, and it is what most people run.
MAJOR = 15

# A server that has room, and that begins no work of its own in the middle of a measurement.
SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "synchronous_commit": "off",
    # Every reader asks for TLS where it is offered, and the server makes a TLS record of each message that it sends:
    # with it, encryption would be most of what is measured, on all sides.
    "ssl": "off",
}

# A broker keeps everything of a repetition, and the kernel's cache with it.
BROKER = {"log.retention.check.interval.ms": "3600000"}


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The servers of one repetition.

    Attributes:
        home: Where programs are installed.
        postgres: Runs.
        kafka: Runs; one broker.
        database: A connection to PostgreSQL, in autocommit.
    """

    home: Home
    postgres: PostgresServer
    kafka: KafkaCluster
    database: Any

    def run(self, *statements: str) -> None:
        """Runs statements, each in a transaction of its own."""
        for statement in statements:
            self.database.run(statement)

    def value(self, statement: str) -> Any:
        """The one value that a query returns."""
        return self.database.run(statement)[0][0]

    def settle(self) -> str:
        """Brings everything written so far to disk; returns the end of the write-ahead log."""
        # A commit that waits for the log to be flushed, or the end could lie behind what a reader can get.
        self.run("BEGIN", "SET LOCAL synchronous_commit = on", "SELECT pg_current_xact_id()", "COMMIT", "CHECKPOINT")
        return str(self.value("SELECT pg_current_wal_insert_lsn()::text"))

    def about(self) -> str:
        """Versions and settings, for a note."""
        return (
            f"PostgreSQL {self.postgres.programs.version()} (Debian's, fsync and TLS off), Kafka"
            f" {self.kafka.programs.version()} (one broker), loopback, fresh servers for each repetition"
        )


@contextmanager
def lab() -> Iterator[Lab]:
    """Starts both servers, and removes them and their data at the end.

    Raises:
        CannotRun: they, or the libraries that talk to them, are not installed.
    """
    try:
        from pg8000.native import Connection
    except ModuleNotFoundError:
        raise CannotRun("The library pg8000 is not installed: pip install 'raypipe[postgres]'") from None
    try:
        home = open_home()
        with (
            private_postgres(home, MAJOR, SETTINGS) as postgres,
            private_kafka(home, settings=BROKER) as kafka,
        ):
            database = Connection("raypipe", "127.0.0.1", "postgres", postgres.port, postgres.password)
            try:
                yield Lab(home=home, postgres=postgres, kafka=kafka, database=database)
            finally:
                database.close()
    except ServiceError as missing:
        raise CannotRun(str(missing)) from None


def quoted(tables: Sequence[str]) -> str:
    """Names of tables as a list in SQL."""
    return ", ".join(f'public."{table}"' for table in tables)
