"""Flink's settings: the best found for these questions on a machine of two cores, state in heap or RocksDB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HEAP, ROCKSDB = "hashmap", "rocksdb"

# The parallel collector of a large heap is the fastest for one task; G1, its default, costs about a tenth more.
JVM = "-Xmx4g -XX:+UseParallelGC"

_BEST = {
    # Two tasks on two cores cost more CPU-seconds a row than one: the comparison is of CPU-seconds.
    "parallelism.default": "1",
    "table.exec.resource.default-parallelism": "1",
    "taskmanager.numberOfTaskSlots": "1",
    "execution.runtime-mode": "STREAMING",
    # Rows are not copied from operator to operator.
    "pipeline.object-reuse": "true",
    "taskmanager.memory.managed.size": "512m",
    # As its users have it: exactly once, a checkpoint every ten seconds. Mini-batches made these questions slower.
    "execution.checkpointing.interval": "10s",
    "execution.checkpointing.mode": "EXACTLY_ONCE",
    "execution.checkpointing.storage": "filesystem",
    # A job over files that end waits for one more checkpoint otherwise, which would be time without work.
    "execution.checkpointing.checkpoints-after-tasks-finish.enabled": "false",
    # Its blob server and its task manager listen on all interfaces otherwise.
    "rest.bind-address": "127.0.0.1",
    "jobmanager.bind-host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
    # Answers are in files: read as they stand in UTC.
    "table.local-time-zone": "UTC",
}


def configuration(backend: str, checkpoints: Path) -> Mapping[str, str]:
    """All settings.

    Args:
        backend: Where state is: ``HEAP`` or ``ROCKSDB``.
        checkpoints: Folder of the checkpoints.
    """
    chosen = {"state.backend.type": backend, "execution.checkpointing.dir": checkpoints.as_uri()}
    if backend == ROCKSDB:
        chosen["execution.checkpointing.incremental"] = "true"
    return {**_BEST, **chosen}


# While answers are checked they are written to files, which are only whole after a last checkpoint.
CHECKED: Mapping[str, str] = {
    "execution.checkpointing.checkpoints-after-tasks-finish.enabled": "true",
    "execution.checkpointing.interval": "1s",
}
MEASURED: Mapping[str, str] = {name: _BEST[name] for name in CHECKED}
