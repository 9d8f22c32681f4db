"""``shop_backlog``: how fast a pipeline works off what piled up while it was stopped."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import adbc_driver_sqlite.dbapi as adbc
import duckdb

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.shop import Shop, make_backlog, make_shop
from raypipe.local.assemble import assemble
from raypipe.local.run import run_local
from raypipe.spec import load


class ShopBacklog:
    """SQLite to log to SQL step to DuckDB, one process, every promise kept."""

    name = "shop_backlog"
    about = "Changes per second from a SQLite database through the log and a row-wise view into a DuckDB file."
    figures = (
        Figure(
            name="shop_backlog",
            unit="changes/s",
            beside="the same captured changes read with ADBC, filtered and written to DuckDB: no log, no exactly-once",
            goal=Goal(text=">= 150,000 changes/s", of="value", at_least=150_000),
        ),
    )
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """A first run installs capture and makes the sink; then the backlog grows; the second run is measured."""
        changes = 2_000_000 if size is Size.FULL else 100_000
        shop = make_shop(folder)
        plan = assemble(load(shop.pipeline))
        run_local(plan, until="idle")
        make_backlog(shop, changes)
        direct_s = _direct_seconds(shop)
        began = time.perf_counter()
        status = run_local(plan, until="idle")
        seconds = time.perf_counter() - began
        total = sum(status.stage_s.values())
        shares = ", ".join(f"{stage} {share / total:.0%}" for stage, share in status.stage_s.items())
        return Samples(
            by_figure={"shop_backlog": Sample(value=changes / seconds, limit=changes / direct_s)},
            notes=(
                f"{changes:,} changes in {seconds:.1f} s, {status.epochs} epochs, {status.rows:,} row images",
                f"share of time by stage: {shares}",
            ),
        )
