"""From a commit in PostgreSQL until its rows are readable in Kafka, at a steady rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.postgres import watcher, writer
from benchmarks.postgres.content import next_order
from benchmarks.postgres.cost import Cost, Meter
from benchmarks.postgres.lab import Lab
from benchmarks.postgres.topics import end_of

RATE = 5_000.0
# The first seconds fill caches and let compilers work; nobody who watches a running system sees them.
WARM_S = 8.0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What was measured.

    Attributes:
        ms: Of each row after the warm-up.
        committed: When each transaction was committed, by the monotonic clock, the warm-up included.
        cost: Of all rows.
        rows: All.
    """

    ms: npt.NDArray[np.float64]
    committed: npt.NDArray[np.float64]
    cost: Cost
    rows: int

    def percentile(self, at: float) -> float:
        """Of the latencies, in milliseconds."""
        return float(np.percentile(self.ms, at))


def latency(lab: Lab, folder: Path, topic: str, kind: str, reader: int, seconds: float) -> Latency:
    """Writes at `RATE`, in transactions of 100 rows, while somebody carries the rows to a topic.

    Args:
        lab: Whose table ``orders`` is written to.
        folder: For what the watcher finds.
        topic: Where rows arrive.
        kind: Of its messages; see ``watcher``.
        reader: Process that carries them.
        seconds: After the warm-up.

    Raises:
        RuntimeError: a row was lost, doubled, or did not come.
    """
    first, rows = next_order(lab), int(RATE * (WARM_S + seconds) / writer.ROWS) * writer.ROWS
    meter, found = Meter(lab=lab, reader=reader), folder / f"{topic}.npy"
    watching = watcher.start(lab.kafka.bootstrap, topic, end_of(lab, topic), rows, kind, found)
    before = meter.now()
    writing = writer.start(lab, RATE, WARM_S + seconds, first)
    committed = np.array(writer.committed(writing))
    keys, moments = watcher.seen(watching, found)
    cost = meter.since(before)
    if not np.array_equal(np.sort(keys), np.arange(first, first + rows)):
        raise RuntimeError(f"topic {topic} does not hold every row exactly once")
    numbers = ((keys - first) // writer.ROWS).astype(np.int64)
    return Latency(ms=since(committed, numbers, moments), committed=committed, cost=cost, rows=rows)


def since(
    committed: npt.NDArray[np.float64], numbers: npt.NDArray[np.int64], moments: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Milliseconds from the commits of some transactions to some moments, without those of the warm-up.

    A reader may be faster than the writer's own clock call: then it is 0.
    """
    at = committed[numbers]
    latencies: npt.NDArray[np.float64] = np.maximum(0.0, moments - at)[at >= committed[0] + WARM_S] * 1000.0
    return latencies
