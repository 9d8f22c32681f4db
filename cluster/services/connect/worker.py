"""A standalone Connect worker, driven through its HTTP interface."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.services.account import Account
from cluster.services.connect.programs import ConnectPrograms
from cluster.services.process import LOOK_EVERY_S, ServerProcess, ServiceError

READY_WITHIN_S = 90.0
STOP_WITHIN_S = 60.0
# How long a connector may take to start or stop: it looks for its last position by decoding the backlog.
DONE_WITHIN_S = 300.0
# What it says once it has found its place in the stream and begins to send rows on.
STREAMS = "Processing messages"
_JSON = "org.apache.kafka.connect.json.JsonConverter"


class ConnectWorker:
    """A worker and its connectors, with its positions in a folder of its own; nothing runs before `start`.

    Attributes:
        folder: Holds ``offsets``, ``worker.properties`` and ``connect.log``.
        settings: Over our own in ``worker.properties``. Changes count from the next start on.
    """

    def __init__(
        self,
        *,
        programs: ConnectPrograms,
        folder: Path,
        port: int,
        bootstrap: str,
        account: Account,
        heap_mb: int,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = dict(settings or {})
        self._programs = programs
        self._port = port
        self._bootstrap = bootstrap
        self._account = account
        self._heap_mb = heap_mb
        self._process = ServerProcess(name=f"Connect in {folder}", folder=folder, log=self.log, account=account)

    @property
    def log(self) -> Path:
        """What the worker says: lines that begin with milliseconds since 1970."""
        return self.folder / "connect.log"

    @property
    def pid(self) -> int | None:
        """Its process number, None if it does not run."""
        return self._process.pid

    def start(self) -> None:
        """Starts the worker and waits until it takes requests. It has no connectors, but knows their positions.

        Raises `ServiceError` with the end of its log if it does not come up.
        """
        if self.pid is not None:
            return
        settings = {
            "key.converter": _JSON,
            "value.converter": _JSON,
            "plugin.discovery": "service_load",
            # What the topics need that Debezium writes to; the broker makes none by itself.
            "topic.creation.enable": "true",
            "bootstrap.servers": self._bootstrap,
            "plugin.path": str(self._programs.plugins),
            "listeners": f"http://127.0.0.1:{self._port}",
            "offset.storage.file.filename": str(self.folder / "offsets"),
            **self.settings,
        }
        properties = self.folder / "worker.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._account.own(properties)
        main_class = "org.apache.kafka.connect.cli.ConnectStandalone"
        self._process.spawn(self._programs.worker.command(main_class, properties, heap_mb=self._heap_mb))
        self._process.await_ready(self._answers, READY_WITHIN_S)

    def stop(self) -> None:
        """Ends it in order: it writes the positions of its connectors first."""
        self._process.end(signal.SIGTERM, STOP_WITHIN_S)

    def kill(self) -> None:
        """Ends it at once (SIGKILL): what it sent since its positions were last written it will send again."""
        self._process.kill()

    def kill_streaming(self, name: str) -> None:
        """Kills it at a moment when its file of positions is whole, and says that a connector's snapshot is done.

        The file is written in place: whom a kill hits meanwhile has no position, and its connectors take their
        snapshots again. Raises `ServiceError` if there is no such moment in time.
        """
        deadline = time.monotonic() + DONE_WITHIN_S
        while True:
            self._process.pause()
            if self._position_is_kept(name):
                self._process.kill()
                return
            self._process.resume()
            if time.monotonic() > deadline:
                raise ServiceError(f"Connector {name} wrote no position within {DONE_WITHIN_S:.0f} s.")
            time.sleep(LOOK_EVERY_S)

    def log_text(self) -> str:
        """All it has said."""
        return self.log.read_text(errors="replace")

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

    def add(self, name: str, config: Mapping[str, str]) -> float:
        """Makes a connector and waits until it streams; returns when it began to, in seconds since 1970."""
        said = len(self.log_text())
        self.call("POST", "/connectors", {"name": name, "config": dict(config)})
        return self._streams_since(name, said)

    def rest(self, name: str, at_rest: Callable[[], bool]) -> None:
        """Stops a connector in order, positions written.

        Args:
            name: Of the connector.
            at_rest: Whether what it reads from is free of it, too.
        """
        self.call("PUT", f"/connectors/{name}/stop")
        deadline = time.monotonic() + DONE_WITHIN_S
        while not (self._state(name) == "STOPPED" and at_rest()):
            if time.monotonic() > deadline:
                raise ServiceError(f"Connector {name} did not stop. The end of {self.log}:\n{self.log_text()[-3000:]}")
            time.sleep(LOOK_EVERY_S)

    def resume(self, name: str) -> float:
        """Starts a connector again; returns as `add` does, after its search for its place."""
        said = len(self.log_text())
        self.call("PUT", f"/connectors/{name}/resume")
        return self._streams_since(name, said)

    def _state(self, name: str) -> str:
        return str(self.call("GET", f"/connectors/{name}/status")["connector"]["state"])

    def _position_is_kept(self, name: str) -> bool:
        """Whether the file, a serialized `HashMap` of bytes, is whole and holds a place in the stream of this one."""
        file = self.folder / "offsets"
        kept = file.read_bytes() if file.exists() else b""
        key = re.escape(f'["{name}",{{"server":"{name}"}}]'.encode())
        found = re.search(key + rb"uq\x00~\x00\x02.{4}(\{[^}]*\})", kept, re.DOTALL)
        return found is not None and b'"snapshot"' not in found[1] and kept.endswith(b"}x")

    def _answers(self) -> bool:
        try:
            self.call("GET", "/connectors")
        except OSError:
            return False
        return True

    def _streams_since(self, name: str, said: int) -> float:
        """Waits for the line that says so in the log, after a place in it; returns when it was said."""
        line = re.compile(rf"^(\d{{13}}) .*{STREAMS}", re.MULTILINE)
        deadline = time.monotonic() + DONE_WITHIN_S
        while (found := line.search(self.log_text(), said)) is None:
            if time.monotonic() > deadline or self.pid is None or " ERROR " in self.log_text()[said:]:
                raise ServiceError(f"Connector {name} does not stream. {self.log} ends:\n{self.log_text()[-3000:]}")
            time.sleep(LOOK_EVERY_S)
        return int(found[1]) / 1000.0
