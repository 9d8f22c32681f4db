"""``pg_catchup``: how fast a pipeline works off what an ordinary application wrote while it was stopped."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Repetitions, Samples, Size
from benchmarks.postgres import content
from benchmarks.postgres.backlog import backlog, ratio_figure

TABLES = 20


class PgCatchup:
    """Five million changes of every kind over twenty tables."""

    name = "pg_catchup"
    about = (
        f"Changes per second after downtime: inserts, updates and deletes on {TABLES} tables, a third of them each in"
        " transactions of 10, 100 and 1,000, into committed Kafka transactions."
    )
    figures = (ratio_figure(name, "changes/s", "changes", 1.3),)
    repetitions = Repetitions(full=5, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Writes the changes, then reads them twice."""
        del folder
        return backlog(
            self.name,
            lambda lab: content.make_shops(lab, TABLES),
            content.mixed,
            5_000_000 if size is Size.FULL else 200_000,
        )
