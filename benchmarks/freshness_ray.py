"""``freshness_ray``: how long a change takes from the source's commit until somebody can read it in the sink."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import writer
from benchmarks.harness import Repetitions, Sample, Samples, Size, latency_figures
from benchmarks.shop import SQLITE, Shop, make_shop

RATE = 500.0
# The first seconds fill caches and start workers; a person watching a dashboard does not see them.
WARM_S = 5.0
# How often the two observers look. It is part of every latency, of raypipe's and of the limit's.
LOOK_S = 0.001
# A Ray that starts on a busy machine takes its time.
READY_WITHIN_S = 120.0
# No latency that matters is longer; what has not arrived by then is an error, not a figure.
ARRIVED_WITHIN_S = 60.0

BESIDE = "the same order read by a second connection to the source itself"


class FreshnessRay:
    """Ray runner, SQLite sink, 500 transactions a second, commit protocol on."""

    name = "freshness_ray"
    about = (
        f"Milliseconds from the source's commit until the row is readable in a SQLite sink, at {RATE:.0f} transactions"
        " per second on Ray."
    )
    figures = latency_figures(name, BESIDE, p50_ms=150, p99_ms=500)
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Starts the pipeline, then the writer, and watches both ends of the way."""
        seconds = WARM_S + (30.0 if size is Size.FULL else 5.0)
        shop = make_shop(folder, SQLITE)
        source = Watch(path=shop.database, sql="SELECT max(order_id) FROM orders")
        sink = Watch(path=folder / "warehouse.db", sql="SELECT max(order_id) FROM paid_orders")
        with _running(shop, sink):
            writing = writer.start(shop.database, RATE, seconds)
            last = int(RATE * seconds)
            _watch_until(last, source, sink, time.monotonic() + seconds + ARRIVED_WITHIN_S)
            times = writer.committed(writing)
        value, limit = _latencies_ms(times, sink), _latencies_ms(times, source)
        return Samples(
            by_figure={
                f"freshness_ray_p{at}": Sample(
                    value=float(np.percentile(value, at)), limit=float(np.percentile(limit, at))
                )
                for at in (50, 99)
            },
            notes=(f"{len(value):,} changes after {WARM_S:.0f} s of warming up, slowest {value.max():,.0f} ms",),
        )


@dataclass(kw_only=True)
class Watch:
    """The highest order a reader can see at one end, and since when.

    Orders become visible in the order of their ids, so the highest stands for all below it.
    """

    path: Path
    sql: str
    seen: list[tuple[float, int]] = field(default_factory=list)

    @property
    def highest(self) -> int:
        """Of the orders seen."""
        return self.seen[-1][1] if self.seen else 0

    def look(self, connection: sqlite3.Connection) -> None:
        """Reads once."""
        (highest,) = connection.execute(self.sql).fetchone()
        if highest is not None and highest > self.highest:
            self.seen.append((time.monotonic(), highest))

    def readable(self) -> bool:
        """Whether the table is there yet."""
        try:
            with closing(_reading(self.path)) as connection:
                connection.execute(self.sql)
        except sqlite3.OperationalError:
            return False
        return True


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=10.0)


@contextmanager
def _running(shop: Shop, sink: Watch) -> Iterator[None]:
    """The pipeline on a local Ray, from when its sink's table exists."""
    command = [sys.executable, "-m", "raypipe", "run", str(shop.pipeline), "--until", "forever"]
    log = shop.folder / "run.log"
    with log.open("wb") as output:
        run = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not sink.readable():
            if run.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the pipeline did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(60.0)


def _watch_until(last: int, source: Watch, sink: Watch, deadline: float) -> None:
    with closing(_reading(source.path)) as from_source, closing(_reading(sink.path)) as from_sink:
        while sink.highest < last:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {sink.highest} of {last} orders arrived in the sink")
            source.look(from_source)
            sink.look(from_sink)
            time.sleep(LOOK_S)


def _latencies_ms(committed: Mapping[int, float], watch: Watch) -> npt.NDArray[np.float64]:
    """Of each order after the warm-up. A reader may be faster than the writer's own clock call: then it is 0."""
    orders = np.array(sorted(committed))
    at = np.array([committed[order] for order in orders])
    seen: Sequence[tuple[float, int]] = watch.seen
    visible = np.array([moment for moment, _ in seen])[np.searchsorted([order for _, order in seen], orders)]
    latencies: npt.NDArray[np.float64] = np.maximum(0.0, visible - at)[at >= at[0] + WARM_S] * 1000.0
    return latencies
