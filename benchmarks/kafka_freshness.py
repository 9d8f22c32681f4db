"""``kafka_freshness``: how long a change takes from PostgreSQL's commit until a consumer of Kafka can read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.harness import Repetitions, Sample, Samples, Size, latency_figures
from benchmarks.postgres import content
from benchmarks.postgres.echo import echo
from benchmarks.postgres.lab import lab
from benchmarks.postgres.latency import RATE, WARM_S, latency, since
from benchmarks.postgres.pumping import raypipe
from benchmarks.postgres.running import running

BESIDE = "pg_recvlogical gives out the same transaction as text, which reaches no log"


class KafkaFreshness:
    """A reader as a pipeline runs it, 5,000 rows a second, every promise kept."""

    name = "kafka_freshness"
    about = (
        "Milliseconds from a commit in PostgreSQL until its rows are readable by a read_committed consumer of Kafka, at"
        f" {RATE:,.0f} rows per second in transactions of 100."
    )
    figures = latency_figures(name, BESIDE, p50_ms=10, p99_ms=30)
    repetitions = Repetitions(full=5, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Writes, and listens at both ends of the way."""
        with lab() as servers:
            content.make_orders(servers)
            reader = raypipe(servers, [content.ORDERS])
            with echo(servers) as echoes, running(reader) as process:
                seconds = 30.0 if size is Size.FULL else 5.0
                measured = latency(servers, folder, reader.topic(content.ORDERS), "batches", process, seconds)
                heard = echoes.moments(len(measured.committed))
            limit = since(measured.committed, np.arange(len(measured.committed)), heard)
            return Samples(
                by_figure={
                    f"kafka_freshness_p{at}": Sample(
                        value=measured.percentile(at), limit=float(np.percentile(limit, at))
                    )
                    for at in (50, 99)
                },
                notes=(
                    servers.about(),
                    f"{len(measured.ms):,} rows after {WARM_S:.0f} s of warming up, each of them exactly once, slowest"
                    f" {measured.ms.max():,.0f} ms",
                    f"raypipe, CPU-seconds per million rows at this rate: {measured.cost.per_million(measured.rows)}",
                ),
            )
