"""A shop's writer in a process of its own: ``python -m benchmarks.writer DATABASE RATE SECONDS``.

It inserts one order in each transaction, at a steady rate, and at the end prints a line ``order_id committed_at`` for
each. Times are of the monotonic clock, which all processes of a Linux machine share.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.shop import connect

INSERT = "INSERT INTO orders VALUES (?, 1, 'paid', 9.5, '2026-01-01 00:00:00', NULL)"


def start(database: Path, rate: float, seconds: float) -> subprocess.Popen[str]:
    """Starts the process; ``committed`` reads what it says."""
    command = [sys.executable, "-m", "benchmarks.writer", str(database), str(rate), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def committed(writer: subprocess.Popen[str]) -> dict[int, float]:
    """Waits for its end; returns when each order was committed, by id."""
    told, _ = writer.communicate()
    if writer.returncode != 0:
        raise RuntimeError(f"the writer ended with exit code {writer.returncode}")
    return {int(order): float(at) for order, at in (line.split() for line in told.splitlines())}


def _write(database: Path, rate: float, seconds: float) -> dict[int, float]:
    times = {}
    with closing(connect(database)) as connection:
        began = time.monotonic()
        for order in range(1, int(rate * seconds) + 1):
            # Behind schedule it does not wait, so the rate holds over the whole run.
            time.sleep(max(0.0, began + order / rate - time.monotonic()))
            connection.execute(INSERT, (order,))
            times[order] = time.monotonic()
    return times


if __name__ == "__main__":
    for order, at in _write(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])).items():
        print(order, at)
