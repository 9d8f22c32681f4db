"""An application that writes at a steady rate: ``python -m benchmarks.postgres.writer PORT RATE SECONDS FIRST``.

Each transaction inserts `ROWS` orders; at the end it prints the moment at which each was committed, a line each. Times
are of the monotonic clock, which all processes of a Linux machine share. The password comes in ``PGPASSWORD``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing

from pg8000.native import Connection

from benchmarks.postgres.content import insertion
from benchmarks.postgres.lab import Lab
from cluster.services.postgres import SUPERUSER

ROWS = 100


def start(lab: Lab, rate: float, seconds: float, first: int) -> subprocess.Popen[str]:
    """Starts the process; ``committed`` reads what it says.

    Args:
        lab: Whose table ``orders`` it fills.
        rate: Rows per second.
        seconds: How long.
        first: Key of the first row.
    """
    module = "benchmarks.postgres.writer"
    command = [sys.executable, "-m", module, str(lab.postgres.port), str(rate), str(seconds), str(first)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PGPASSWORD": lab.postgres.password}
    )


def committed(writer: subprocess.Popen[str]) -> list[float]:
    """Waits for its end; returns when each transaction was committed."""
    told, _ = writer.communicate()
    if writer.returncode != 0:
        raise RuntimeError(f"the writer ended with exit code {writer.returncode}")
    return [float(line) for line in told.splitlines()]


def _write(port: int, rate: float, seconds: float, first: int) -> list[float]:
    times = []
    with closing(Connection(SUPERUSER, "127.0.0.1", "postgres", port, os.environ["PGPASSWORD"])) as connection:
        # A commit that is only promised is sent to nobody before the server writes it, up to 0.2 s later.
        connection.run("SET synchronous_commit = on")
        began = time.monotonic()
        for number in range(int(rate * seconds / ROWS)):
            # Behind schedule it does not wait, so the rate holds over the whole run.
            time.sleep(max(0.0, began + number * ROWS / rate - time.monotonic()))
            connection.run(insertion(first + number * ROWS, ROWS))
            times.append(time.monotonic())
    return times


if __name__ == "__main__":
    for at in _write(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])):
        print(at)
