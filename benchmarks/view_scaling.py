"""What an epoch of 1,000 changes costs through a GROUP BY, and how that grows with the rows that are there."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import psutil
import pyarrow as pa

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.view_rig import ORDERS, Changes, Rig, load, orders

SQL = "SELECT customer_id, count(*) AS n, sum(amount) AS total FROM shop.orders GROUP BY customer_id"
CHANGES = 1_000
EPOCHS = 40
WARM_UP = 10
# Orders of a customer: enough for computing a group again to cost more than adding to it.
GROUP_ROWS = 20
SIZES = {"1m": 1_000_000, "10m": 10_000_000, "50m": 50_000_000}
QUICK_SIZES = {"1m": 20_000, "10m": 100_000, "50m": 200_000}
# In memory while they are loaded, each several times: with less memory than that many rows take, they are left out.
LOADED_ROW_BYTES = 300


class ViewScaling:
    """Loads orders, then tells changes of them epoch by epoch."""

    name = "view_scaling"
    about = (
        f"An epoch of {CHANGES:,} changes (6 inserts, 3 updates, 1 delete of ten) through count and sum by customer,"
        f" {GROUP_ROWS} orders each: from the changes in memory to what sinks are told, the state durable."
    )
    figures = (
        Figure(
            name="view_scaling_1m",
            unit="ms",
            beside="DuckDB, one thread, runs the SQL over all rows",
            goal=Goal(text="<= 15 ms", of="value", at_most=15),
        ),
        Figure(
            name="view_scaling_10m",
            unit="ms",
            beside="DuckDB, one thread, runs the SQL over all rows",
        ),
        Figure(
            name="view_scaling_50m",
            unit="ms",
            beside="DuckDB, one thread, runs the SQL over all rows",
        ),
        Figure(
            name="view_growth",
            unit="ms",
            beside="the same at 1 M rows",
            goal=Goal(text="ratio <= 1.3", of="ratio", at_most=1.3),
        ),
    )
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures at each size."""
        by_figure: dict[str, Sample] = {}
        notes = []
        spent = {}
        for called, rows in (SIZES if size is Size.FULL else QUICK_SIZES).items():
            if rows * LOADED_ROW_BYTES > psutil.virtual_memory().available:
                notes.append(f"{rows:,} rows are not measured: there is not enough memory to load them at once")
                continue
            spent[called], again_ms, note = measured(folder / called, rows)
            notes.append(note)
            by_figure[f"view_scaling_{called}"] = Sample(value=spent[called], limit=again_ms)
        by_figure["view_growth"] = Sample(value=spent["10m"], limit=spent["1m"])
        self.figures = tuple(figure for figure in self.figures if figure.name in by_figure)
        return Samples(by_figure=by_figure, notes=tuple(notes))


def measured(folder: Path, rows: int) -> tuple[float, float, str]:
    """Medians in milliseconds of an epoch and of the query as a whole, and a note."""
    customers = rows // GROUP_ROWS
    loaded = orders(np.arange(rows), customers, np.random.default_rng(1))
    rig = Rig(folder, [ORDERS], {"totals": SQL})
    try:
        load_s, _ = rig.epoch({"shop.orders": load(ORDERS, loaded)})
        again_ms = _again(loaded)
        del loaded
        rig.store.settle()
        changes = Changes(rows, customers)
        epochs = []
        for _ in range(EPOCHS):
            told = {"shop.orders": changes.take(CHANGES, rig.commit + 1)}
            epochs.append(rig.epoch(told)[0] * 1e3)
        took = epochs[WARM_UP:]
        note = (
            f"{rows:,} rows: loaded in {load_s:.1f} s, {rig.store.bytes / rows:.0f} bytes a row on disk; an epoch"
            f" {min(took):.1f} to {max(took):.1f} ms"
        )
        return median(took), again_ms, note
    finally:
        rig.close()


def _again(rows: pa.Table) -> float:
    """Milliseconds of the SQL over a DuckDB table of the rows."""
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("CREATE SCHEMA shop")
        database.register("rows", rows)
        database.execute("CREATE TABLE shop.orders AS SELECT * FROM rows")
        spent = []
        for _ in range(3):
            began = time.perf_counter()
            database.sql(SQL).to_arrow_table()
            spent.append(time.perf_counter() - began)
    return median(spent) * 1e3
