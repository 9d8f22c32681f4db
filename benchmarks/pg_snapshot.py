"""``pg_snapshot``: how fast a table that is there already goes from PostgreSQL into Kafka."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.postgres import content
from benchmarks.postgres.cost import measured
from benchmarks.postgres.lab import Lab, lab
from benchmarks.postgres.pumping import Raypipe, raypipe, shares

COPY = f"COPY {content.ORDERS} TO STDOUT (FORMAT binary)"


class PgSnapshot:
    """A table of two million rows, read in chunks beside the stream."""

    name = "pg_snapshot"
    about = "Rows per second of a table's first load, in resumable chunks, committed in Kafka with position and cut."
    figures = (
        Figure(
            name="pg_snapshot",
            unit="rows/s",
            beside="psql copies the same table in binary to /dev/null, in one statement",
            goal=Goal(text="ratio >= 0.7", of="ratio", at_least=0.7),
        ),
    )
    repetitions = Repetitions(full=5, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Fills a table, then copies it twice."""
        del folder
        rows = 2_000_000 if size is Size.FULL else 200_000
        with lab() as servers:
            content.make_orders(servers, rows)
            _warm(servers)
            servers.settle()
            by_copy = measured(servers, lambda: _copy(servers))
            reader = Raypipe(lab=servers, tables=(content.ORDERS,))
            with reader.reading() as reading:
                by_raypipe = measured(servers, reading.load, reading.source.close)
            figures = reading.pump.figures
            # The load begins with a TRUNCATE, which is a row image too.
            if figures.rows != rows + 1:
                raise RuntimeError(f"the log has {figures.rows:,} row images instead of {rows + 1:,}")
        per_second = rows / by_raypipe.reader
        return Samples(
            by_figure={self.name: Sample(value=rows / by_raypipe.seconds, limit=rows / by_copy.seconds)},
            notes=(
                servers.about(),
                f"{rows:,} rows; raypipe {per_second:,.0f} rows for each CPU-second of its own",
                f"raypipe, CPU-seconds per million rows: {by_raypipe.per_million(rows)}",
                f"COPY, the same: {by_copy.per_million(rows)}",
                f"raypipe's stages, which overlap, in {by_raypipe.seconds:.2f} s: {shares(figures)}",
            ),
        )


def _warm(servers: Lab) -> None:
    """Loads a small table: a broker that has just started is slow."""
    servers.run(f"CREATE TABLE warm {content.COLUMNS}")
    servers.run(f"INSERT INTO warm SELECT * FROM {content.ORDERS} LIMIT 50000")
    raypipe(servers, ["warm"], pipeline="warm")


def _copy(servers: Lab) -> None:
    """Copies the table to nowhere."""
    done = subprocess.run(
        [*servers.postgres.command("psql"), "-d", "postgres", "--no-psqlrc", "--command", COPY],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PGPASSWORD": servers.postgres.password},
    )
    if done.returncode != 0:
        raise RuntimeError(f"psql ended with exit code {done.returncode}: {done.stderr}")
