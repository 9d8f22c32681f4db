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
from raypipe.model import Op
from raypipe.spec import load

# The change table of the only captured table; c0 and so on are the columns of orders in their order.
CAPTURED = "SELECT id, op, c0, c1, c2, c3, c4 FROM _raypipe_changes_1"
# The last image of each order decides, as it does in the sink.
WRITTEN = f"""
CREATE TABLE paid_orders AS
SELECT c0 AS order_id, c1 AS customer_id, c3::DECIMAL(10, 2) AS amount, c4::TIMESTAMP::DATE AS day
FROM (SELECT * FROM changes QUALIFY row_number() OVER (PARTITION BY c0 ORDER BY id DESC) = 1)
WHERE op <> {Op.DELETE:d} AND c2 = 'paid'
"""


class ShopBacklog:
    """SQLite to log to SQL step to DuckDB, one process, every promise kept."""

    name = "shop_backlog"
    about = "Changes per second from a SQLite database through the log and a row-wise view into a DuckDB file."
    figures = (
        Figure(
            name="shop_backlog",
            unit="changes/s",
            beside="the same changes read with ADBC and applied by one DuckDB statement: no log, not exactly-once",
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
        direct_s, direct_rows = _direct(shop)
        began = time.perf_counter()
        status = run_local(plan, until="idle")
        seconds = time.perf_counter() - began
        with closing(duckdb.connect(folder / "warehouse.duckdb", read_only=True)) as warehouse:
            if warehouse.execute("SELECT count(*) FROM paid_orders").fetchone() != (direct_rows,):
                raise RuntimeError("the pipeline and the direct way disagree: the figures would mean nothing")
        busy = sum(status.stage_s.values())
        shares = ", ".join(f"{stage} {share / busy:.0%}" for stage, share in status.stage_s.items())
        return Samples(
            by_figure={"shop_backlog": Sample(value=changes / seconds, limit=changes / direct_s)},
            notes=(
                f"{changes:,} changes in {seconds:.1f} s, {status.epochs} epochs, {status.rows:,} row images",
                f"share of busy time (two threads, {busy:.1f} s) by stage: {shares}",
            ),
        )


def _direct(shop: Shop) -> tuple[float, int]:
    """Seconds of the direct way, and how many rows it ends with."""
    began = time.perf_counter()
    with (
        closing(adbc.connect(f"file:{shop.database}?mode=ro")) as source,
        closing(source.cursor()) as cursor,
        closing(duckdb.connect(shop.folder / "direct.duckdb")) as target,
    ):
        cursor.execute(CAPTURED)
        target.register("captured", cursor.fetch_record_batch())
        target.execute("CREATE TEMP TABLE changes AS SELECT * FROM captured")
        target.execute(WRITTEN)
        seconds = time.perf_counter() - began
        counted = target.execute("SELECT count(*) FROM paid_orders").fetchone()
    assert counted is not None
    return seconds, int(counted[0])
