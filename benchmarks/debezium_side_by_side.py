"""``debezium_side_by_side``: raypipe and Debezium read the same tables of the same PostgreSQL into the same Kafka."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.debezium.connect import Connect, Connector, connect_worker
from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.postgres import content
from benchmarks.postgres.cost import Cost, Meter, measured
from benchmarks.postgres.lab import Lab, lab
from benchmarks.postgres.latency import RATE, latency
from benchmarks.postgres.pumping import Raypipe, raypipe
from benchmarks.postgres.running import running
from benchmarks.postgres.topics import end_of, filled, make_topic

# Those that compete for throughput, and the one that competes for latency.
FAST = ("default", "balanced")
LOWLAT = "lowlat"
# So many rows go through everybody before anything is timed: a Java that has just started compiles its code first.
WARM_ROWS = 50_000

SPEED = Goal(text="ratio >= 7", of="ratio", at_least=7.0)
CPU = Goal(text="ratio <= 1/15", of="ratio", at_most=1 / 15)
FASTEST = "Debezium in the better of its settings for throughput"


class DebeziumSideBySide:
    """Throughput, processor and latency, in one run."""

    name = "debezium_side_by_side"
    about = (
        "The same rows of the same table, read by raypipe and by Debezium on Kafka Connect into the same broker: one"
        " large transaction, many small ones, and a steady rate."
    )
    figures = (
        Figure(name="debezium_bulk", unit="rows/s", beside=FASTEST, goal=SPEED),
        Figure(name="debezium_small", unit="rows/s", beside=FASTEST, goal=SPEED),
        Figure(name="debezium_bulk_cpu", unit="CPU-s per million rows", beside="the same, of Connect", goal=CPU),
        Figure(name="debezium_small_cpu", unit="CPU-s per million rows", beside="the same, of Connect", goal=CPU),
        Figure(
            name="debezium_p99",
            unit="ms",
            beside=f"Debezium in its setting for latency, {RATE:,.0f} rows per second in transactions of 100",
            goal=Goal(text="ratio <= 1", of="ratio", at_most=1.0),
        ),
    )
    repetitions = Repetitions(full=5, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Gives every reader the same backlogs and then the same steady rate, one after the other."""
        full = size is Size.FULL
        with lab() as servers, connect_worker(servers) as connect:
            content.make_orders(servers)
            sides = Sides.made(servers, connect)
            bulk = sides.race(content.one_transaction, 500_000 if full else 50_000)
            small = sides.race(content.single_rows, 200_000 if full else 20_000)
            by_raypipe, by_debezium = sides.latencies(folder, 30.0 if full else 5.0)
        return Samples(
            by_figure={
                "debezium_bulk": bulk.speed(),
                "debezium_small": small.speed(),
                "debezium_bulk_cpu": bulk.processor(),
                "debezium_small_cpu": small.processor(),
                "debezium_p99": Sample(value=by_raypipe[1], limit=by_debezium[1]),
            },
            notes=(
                servers.about(),
                f"one transaction of {bulk.rows:,} rows: {bulk.about()}",
                f"{small.rows:,} transactions of one row: {small.about()}",
                f"p50 and p99 in ms at {RATE:,.0f} rows/s: raypipe {by_raypipe[0]:.1f} and {by_raypipe[1]:.1f},"
                f" Debezium ({LOWLAT}, not exactly-once) {by_debezium[0]:.1f} and {by_debezium[1]:.1f}",
                "Debezium is timed from when it streams, after it has started and searched for its place; raypipe from"
                " before it connects",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Race:
    """What everybody needed for the same rows.

    Attributes:
        rows: How many.
        raypipe: Its cost.
        debezium: Costs by setting.
    """

    rows: int
    raypipe: Cost
    debezium: Mapping[str, Cost]

    def speed(self) -> Sample:
        """Rows per second beside Debezium's best."""
        return Sample(
            value=self.rows / self.raypipe.seconds,
            limit=self.rows / min(cost.seconds for cost in self.debezium.values()),
        )

    def processor(self) -> Sample:
        """Seconds of processor per million rows beside the least that Connect needs."""
        million = self.rows / 1e6
        return Sample(
            value=self.raypipe.reader / million,
            limit=min(cost.reader for cost in self.debezium.values()) / million,
        )

    def about(self) -> str:
        """Rows per second, and seconds of processor per million, of everybody."""
        costs = {"raypipe": self.raypipe, **{f"Debezium ({name})": cost for name, cost in self.debezium.items()}}
        return "; ".join(
            f"{name} {self.rows / cost.seconds:,.0f} rows/s, CPU-s per million {cost.per_million(self.rows)}"
            for name, cost in costs.items()
        )


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Everybody who reads: raypipe, and a connector for each setting; all stand still between races."""

    lab: Lab
    raypipe: Raypipe
    connectors: Sequence[Connector]

    @classmethod
    def made(cls, servers: Lab, connect: Connect) -> Sides:
        """Makes them, and lets the same rows through all of them."""
        connectors = [Connector(connect=connect, name=name, table=content.ORDERS) for name in (*FAST, LOWLAT)]
        for connector in connectors:
            make_topic(servers, connector.topic)
            connector.start()
        sides = cls(lab=servers, raypipe=raypipe(servers, [content.ORDERS]), connectors=connectors)
        content.one_transaction(servers, content.next_order(servers), WARM_ROWS)
        content.single_rows(servers, content.next_order(servers), WARM_ROWS)
        for connector in connectors:
            filled(servers, connector.topic, 2 * WARM_ROWS)
            connector.stop()
        sides._read_by_raypipe(2 * WARM_ROWS)
        return sides

    def race(self, write: Callable[[Lab, int, int], content.Written], rows: int) -> Race:
        """Writes rows while everybody stands still, then lets one after the other read them."""
        write(self.lab, content.next_order(self.lab), rows)
        self.lab.settle()
        by_raypipe = self._read_by_raypipe(rows)
        costs = {each.name: self._read_by(each, rows) for each in self.connectors if each.name in FAST}
        return Race(rows=rows, raypipe=by_raypipe, debezium=costs)

    def latencies(self, folder: Path, seconds: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """p50 and p99 in milliseconds, of raypipe and of Debezium."""
        topic = self.raypipe.topic(content.ORDERS)
        with running(self.raypipe) as process:
            ours = latency(self.lab, folder, topic, "batches", process, seconds)
        connector = next(each for each in self.connectors if each.name == LOWLAT)
        behind = content.next_order(self.lab) - 1
        connector.resume()
        filled(self.lab, connector.topic, behind)
        theirs = latency(self.lab, folder, connector.topic, "rows", connector.connect.pid, seconds)
        connector.stop()
        return (ours.percentile(50), ours.percentile(99)), (theirs.percentile(50), theirs.percentile(99))

    def _read_by_raypipe(self, rows: int) -> Cost:
        with self.raypipe.reading() as reading:
            return measured(self.lab, lambda: reading.catch_up(rows), reading.source.close)

    def _read_by(self, connector: Connector, rows: int) -> Cost:
        """From when a connector streams until its last row is in the topic; then it is stopped again."""
        meter = Meter(lab=self.lab, reader=connector.connect.pid)
        upto = end_of(self.lab, connector.topic) + rows
        began = connector.resume()
        before = meter.now()
        ended = filled(self.lab, connector.topic, upto)
        cost = meter.since(before)
        connector.stop()
        return cost.lasting(ended - began)
