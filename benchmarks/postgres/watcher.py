"""A consumer that notes when each row becomes readable: ``python -m benchmarks.postgres.watcher BOOTSTRAP TOPIC …``.

It reads committed messages only and takes the time of each before it looks which rows are in it. At the end it writes a
file of NumPy with two lines: keys and times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, Message, TopicPartition

from raypipe.codec import decode

WITHIN_S = 120.0
# Said once the consumer has its place.
READY = "ready"


def start(bootstrap: str, topic: str, offset: int, rows: int, kind: str, found: Path) -> subprocess.Popen[str]:
    """Starts the process, and returns when it reads; ``seen`` waits for its end.

    Args:
        bootstrap: Of the broker.
        topic: One partition.
        offset: To begin at.
        rows: To wait for.
        kind: Of messages, one of `KINDS`.
        found: File to write.
    """
    words = (bootstrap, topic, str(offset), str(rows), kind, str(found))
    command = [sys.executable, "-m", "benchmarks.postgres.watcher", *words]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    if watcher.stdout.readline().strip() != READY:
        raise RuntimeError("the watcher did not start")
    return watcher


def seen(watcher: subprocess.Popen[str], found: Path) -> npt.NDArray[np.float64]:
    """Waits for its end; returns keys and the moments at which they were readable, as two lines."""
    watcher.communicate()
    if watcher.returncode != 0:
        raise RuntimeError(f"the watcher ended with exit code {watcher.returncode}")
    lines: npt.NDArray[np.float64] = np.load(found)
    return lines


def _keys_of_batch(message: Message) -> list[int]:
    value = message.value()
    assert value is not None
    keys: list[int] = decode(value).rows.column("order_id").to_pylist()
    return keys


def _keys_of_row(message: Message) -> list[int]:
    key = message.key()
    assert key is not None
    fields = json.loads(key)
    return [fields.get("payload", fields)["order_id"]]


KINDS: Mapping[str, Callable[[Message], list[int]]] = {"batches": _keys_of_batch, "rows": _keys_of_row}


def _watch(bootstrap: str, topic: str, offset: int, rows: int, kind: str) -> npt.NDArray[np.float64]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "watcher",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 100,
            "fetch.message.max.bytes": 8 << 20,
        }
    )
    times: list[float] = []
    keys: list[list[int]] = []
    with closing(consumer):
        consumer.assign([TopicPartition(topic, 0, offset)])
        consumer.poll(0.5)
        print(READY, flush=True)
        count, deadline = 0, time.monotonic() + WITHIN_S
        while count < rows and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            at = time.monotonic()
            if message is None or message.error() is not None:
                continue
            times.append(at)
            keys.append(KINDS[kind](message))
            count += len(keys[-1])
    if count < rows:
        raise SystemExit(f"only {count} of {rows} rows arrived in topic {topic}")
    sizes = [len(group) for group in keys]
    return np.array([[key for group in keys for key in group], np.repeat(times, sizes)], np.float64)


if __name__ == "__main__":
    bootstrap, topic, offset, rows, kind, found = sys.argv[1:]
    np.save(found, _watch(bootstrap, topic, int(offset), int(rows), kind))
