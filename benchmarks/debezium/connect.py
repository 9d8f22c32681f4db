"""A standalone Connect worker and its Debezium connectors, driven through its HTTP interface."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.debezium.install import installed
from benchmarks.debezium.settings import HEAP_MB, SETTINGS, WORKER
from benchmarks.postgres.lab import Lab
from cluster.services.ports import claimed_ports
from cluster.services.postgres import SUPERUSER
from cluster.services.process import ServerProcess

READY_WITHIN_S = 90.0
# How long the worker may take to stop or start a connector: it looks for its last position by decoding the backlog.
DONE_WITHIN_S = 300.0
LOOK_EVERY_S = 0.02
# What it says once it has found its place in the stream and begins to send rows on.
STREAMS = "Processing messages"


class Connect:
    """A running worker.

    Attributes:
        lab: Whose servers it stands between.
    """

    def __init__(self, lab: Lab, process: ServerProcess, port: int) -> None:
        self.lab = lab
        self._process = process
        self._port = port

    @property
    def pid(self) -> int:
        """Its process number."""
        pid = self._process.pid
        if pid is None:
            raise RuntimeError(f"Connect has ended. The end of its log:\n{self.log_text()[-3000:]}")
        return pid

    def log_text(self) -> str:
        """All it has said."""
        return self._process.log.read_text(errors="replace")

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request; returns what the answer holds."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60.0) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def answers(self) -> bool:
        """Whether it takes requests yet."""
        try:
            self.call("GET", "/connectors")
        except OSError:
            return False
        return True


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
        said = len(self.connect.log_text())
        self.connect.call("POST", "/connectors", {"name": self.name, "config": config})
        self._streams_since(said)

    def stop(self) -> None:
        """Stops it in order, positions written; its slot keeps what is written from now on."""
        self.connect.call("PUT", f"/connectors/{self.name}/stop")
        self._until(lambda: self._state() == "STOPPED" and not self._reads())

    def resume(self) -> float:
        """Starts it again; returns when its streaming began, in seconds since 1970, after its search for the place."""
        said = len(self.connect.log_text())
        self.connect.call("PUT", f"/connectors/{self.name}/resume")
        return self._streams_since(said)

    def _state(self) -> str:
        return str(self.connect.call("GET", f"/connectors/{self.name}/status")["connector"]["state"])

    def _reads(self) -> bool:
        return bool(self.connect.lab.value(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{self.slot}'"))

    def _streams_since(self, said: int) -> float:
        """Waits for the line that says so in the log, after a place in it; returns when it was said."""
        line = re.compile(rf"^(\d{{13}}) .*{STREAMS}", re.MULTILINE)
        deadline = time.monotonic() + DONE_WITHIN_S
        while (found := line.search(self.connect.log_text(), said)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Debezium does not stream: {self.connect.log_text()[-3000:]}")
            assert self.connect.pid
            time.sleep(LOOK_EVERY_S)
        return int(found[1]) / 1000.0

    @staticmethod
    def _until(holds: Any) -> None:
        deadline = time.monotonic() + DONE_WITHIN_S
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError("a connector did not stop")
            time.sleep(LOOK_EVERY_S)


@contextmanager
def connect_worker(lab: Lab) -> Iterator[Connect]:
    """Starts a worker in a temporary folder; ends it and removes the folder at the end.

    Raises:
        CannotRun: Connect or the connector is not here and cannot be fetched.
    """
    programs, plugins = installed(lab.home)
    main_class = "org.apache.kafka.connect.cli.ConnectStandalone"
    with TemporaryDirectory(prefix="raypipe-connect-") as temporary, claimed_ports(1) as (port,):
        folder = Path(temporary)
        lab.home.account.own(folder)
        process = ServerProcess(
            name=f"Connect in {folder}", folder=folder, log=folder / "connect.log", account=lab.home.account
        )
        settings = {
            **WORKER,
            "bootstrap.servers": lab.kafka.bootstrap,
            "plugin.path": str(plugins),
            "listeners": f"http://127.0.0.1:{port}",
            "offset.storage.file.filename": str(folder / "offsets"),
        }
        properties = folder / "worker.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        worker = Connect(lab, process, port)
        try:
            process.spawn(programs.command(main_class, properties, heap_mb=HEAP_MB))
            process.await_ready(worker.answers, READY_WITHIN_S)
            yield worker
        finally:
            process.kill()
