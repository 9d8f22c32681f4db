"""The connectors that are measured, on a Connect worker of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.debezium.settings import HEAP_MB, SETTINGS, WORKER
from benchmarks.harness import CannotRun
from benchmarks.postgres.lab import Lab
from cluster.services.connect import ConnectWorker
from cluster.services.install import install
from cluster.services.postgres import SUPERUSER
from cluster.services.process import ServiceError
from cluster.services.servers import CONNECT, private_connect


@dataclass(frozen=True, kw_only=True)
class Connect:
    """A running worker.

    Attributes:
        lab: Whose servers it stands between.
        worker: Itself.
    """

    lab: Lab
    worker: ConnectWorker

    @property
    def pid(self) -> int:
        """Its process number."""
        pid = self.worker.pid
        if pid is None:
            raise RuntimeError(f"Connect has ended. The end of its log:\n{self.worker.log_text()[-3000:]}")
        return pid


@dataclass(frozen=True, kw_only=True)
class Connector:
    """One connector with a slot of its own, which reads one table into one topic.

    Attributes:
        connect: The worker that runs it.
        name: Of the setting that it has (`SETTINGS`).
        table: In schema public.
    """

    connect: Connect
    name: str
    table: str

    @property
    def slot(self) -> str:
        """Its replication slot."""
        return f"debezium_{self.name}"

    @property
    def topic(self) -> str:
        """Where its rows go, one message each."""
        return f"debezium_{self.name}.public.{self.table}"

    def start(self) -> None:
        """Makes publication, slot and connector; returns when it streams."""
        postgres = self.connect.lab.postgres
        self.connect.lab.run(f"CREATE PUBLICATION {self.slot} FOR TABLE public.{self.table}")
        config = {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "database.hostname": "127.0.0.1",
            "database.port": str(postgres.port),
            "database.user": SUPERUSER,
            "database.password": postgres.password,
            "database.dbname": "postgres",
            "plugin.name": "pgoutput",
            "slot.name": self.slot,
            "publication.name": self.slot,
            "publication.autocreate.mode": "disabled",
            "snapshot.mode": "no_data",
            "topic.prefix": self.slot,
            "table.include.list": f"public.{self.table}",
            # What raypipe tells itself through the write-ahead log is none of Debezium's work.
            "message.prefix.exclude.list": "raypipe.*",
            **SETTINGS[self.name],
        }
        self.connect.worker.add(self.name, config)

    def stop(self) -> None:
        """Stops it in order, positions written; its slot keeps what is written from now on."""
        self.connect.worker.rest(self.name, lambda: not self._reads())

    def resume(self) -> float:
        """Starts it again; returns when its streaming began, in seconds since 1970, after its search for the place."""
        return self.connect.worker.resume(self.name)

    def _reads(self) -> bool:
        return bool(self.connect.lab.value(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{self.slot}'"))


@contextmanager
def connect_worker(lab: Lab) -> Iterator[Connect]:
    """Starts a worker; ends it at the end.

    Raises:
        CannotRun: Connect or the connector is not here and cannot be fetched.
    """
    try:
        with lab.home.lock():
            install(lab.home, CONNECT)
    except ServiceError as missing:
        raise CannotRun(str(missing)) from missing
    with private_connect(lab.home, lab.kafka.bootstrap, WORKER, HEAP_MB) as worker:
        yield Connect(lab=lab, worker=worker)
