"""What a piece of work costs: seconds on the clock, and seconds of processor of everybody who took part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from benchmarks.postgres.lab import Lab

# How long a server needs to notice that its client has gone, at most.
ENDED_WITHIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds.

    Attributes:
        seconds: On the clock.
        reader: Of processor, by who reads PostgreSQL: this process, a program it ran, or a server such as Connect.
        postgres: Of processor, by PostgreSQL.
        kafka: Of processor, by the broker.
    """

    seconds: float
    reader: float
    postgres: float
    kafka: float

    def lasting(self, seconds: float) -> Cost:
        """The same with other seconds on the clock, measured more exactly."""
        return replace(self, seconds=seconds)

    def per_million(self, rows: int) -> str:
        """Seconds of processor for each million rows, for a note."""
        million = rows / 1e6
        kafka = f", Kafka {self.kafka / million:.2f}" if self.kafka >= 0.005 * self.seconds else ""
        return f"{self.reader / million:.2f} (PostgreSQL {self.postgres / million:.2f}{kafka})"


@dataclass(frozen=True, kw_only=True)
class Meter:
    """Reads clocks; ``since`` makes a cost of two readings.

    Attributes:
        lab: Whose servers are part of the cost.
        reader: Its process, and all its children.
    """

    lab: Lab
    reader: int

    def now(self) -> Cost:
        """The clocks as they stand."""
        postgres, broker = self.lab.postgres.pid, self.lab.kafka.brokers[0].pid
        return Cost(
            seconds=time.perf_counter(),
            reader=_used(self.reader, lives_on=self.lab),
            postgres=_used(postgres) if postgres else 0.0,
            kafka=_used(broker) if broker else 0.0,
        )

    def since(self, before: Cost) -> Cost:
        """What was used since an earlier reading."""
        after = self.now()
        return Cost(
            seconds=after.seconds - before.seconds,
            reader=after.reader - before.reader,
            postgres=after.postgres - before.postgres,
            kafka=after.kafka - before.kafka,
        )


def measured(lab: Lab, work: Callable[[], object], end: Callable[[], object] | None = None) -> Cost:
    """Does some work in this process, or in programs that it runs and waits for; returns its cost.

    Args:
        lab: Whose servers take part.
        work: To do.
        end: Closes the connections to PostgreSQL that the work leaves open; its time does not count.
    """
    meter = Meter(lab=lab, reader=os.getpid())
    before = meter.now()
    work()
    seconds = time.perf_counter() - before.seconds
    if end is not None:
        end()
    _until_no_sender_runs(lab)
    return meter.since(before).lasting(seconds)


def _until_no_sender_runs(lab: Lab) -> None:
    """Waits for the servers of replication connections: only those that have ended are in their parent's account."""
    deadline = time.monotonic() + ENDED_WITHIN_S
    postmaster = psutil.Process(lab.postgres.pid)
    while any(_is_sender(child) for child in postmaster.children()):
        if time.monotonic() > deadline:
            raise RuntimeError("a replication connection was left open: its share of the cost is not known")
        time.sleep(0.01)


def _is_sender(child: psutil.Process) -> bool:
    """Whether a child serves a reader, or is just ending: it has no command line then."""
    with suppress(psutil.NoSuchProcess):
        command = child.cmdline()
        return not command or "walsender" in " ".join(command)
    return False


def _used(pid: int, lives_on: Lab | None = None) -> float:
    """Seconds of processor of a process and its children, those that have ended included; not of a lab's servers."""
    process = psutil.Process(pid)
    total = sum(process.cpu_times()[:4])
    servers = {lives_on.postgres.pid, *(broker.pid for broker in lives_on.kafka.brokers)} if lives_on else set()
    for child in process.children():
        if child.pid not in servers:
            with suppress(psutil.NoSuchProcess):
                total += _used(child.pid)
    return total
