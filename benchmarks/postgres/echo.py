"""How soon PostgreSQL itself gives a commit out: ``pg_recvlogical`` with the plugin that writes text."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from benchmarks.postgres.lab import Lab

SLOT = "echo"


class Echo:
    """Notes when each transaction has come out of a slot of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._moments: list[float] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def moments(self, transactions: int) -> npt.NDArray[np.float64]:
        """When the first so many came, by the monotonic clock."""
        if len(self._moments) < transactions:
            raise RuntimeError(f"pg_recvlogical gave out {len(self._moments)} of {transactions} transactions")
        return np.array(self._moments[:transactions])

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"COMMIT"):
                self._moments.append(time.monotonic())


@contextmanager
def echo(lab: Lab) -> Iterator[Echo]:
    """Listens from now on, until the end of the context."""
    lab.run(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'test_decoding')")
    command = [
        *lab.postgres.command("pg_recvlogical"),
        *("-d", "postgres", "--slot", SLOT, "--start", "--no-loop", "-f", "-"),
        *("-o", "include-xids=0", "-o", "skip-empty-xacts=1"),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PGPASSWORD": lab.postgres.password},
    )
    try:
        yield Echo(process)
    finally:
        process.terminate()
        process.wait(10.0)
