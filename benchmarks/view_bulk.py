"""How fast a view begins: all rows of its table at once."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.view_rig import ORDERS, Rig, load, orders

SQL = "SELECT customer_id, count(*) AS n, sum(amount) AS total FROM shop.orders GROUP BY customer_id"
# Orders of a customer.
GROUP_ROWS = 100


class ViewBulk:
    """Loads one table into a view."""

    name = "view_bulk"
    about = (
        "Rows per second of a table that is loaded into count and sum by customer, from batches in memory to what sinks"
        " are told, with everything that is remembered durable."
    )
    figures = (
        Figure(
            name="view_bulk",
            unit="rows/s",
            beside="DuckDB, one thread, runs the SQL over the same Arrow rows and writes a Parquet file",
            goal=Goal(text="ratio >= 0.3", of="ratio", at_least=0.3),
        ),
    )
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures once."""
        rows = 10_000_000 if size is Size.FULL else 200_000
        loaded = orders(np.arange(rows), rows // GROUP_ROWS, np.random.default_rng(1))
        with duckdb.connect(config={"threads": 1}) as database:
            database.execute("CREATE SCHEMA shop")
            database.register("loaded", loaded)
            database.execute("CREATE VIEW shop.orders AS SELECT * FROM loaded")
            began = time.perf_counter()
            database.execute(f"COPY ({SQL}) TO '{folder}/plain.parquet' (FORMAT parquet)")
            plain_s = time.perf_counter() - began
        batches = load(ORDERS, loaded)
        rig = Rig(folder / "state", [ORDERS], {"totals": SQL})
        try:
            took_s, told = rig.epoch({"shop.orders": batches})
            note = f"{rows:,} rows in {took_s:.2f} s, {told:,} told; {rig.store.bytes / rows:.0f} bytes a row on disk"
            began = time.perf_counter()
            rig.store.settle()
            note += f"; merged into one run behind it in {time.perf_counter() - began:.1f} s"
        finally:
            rig.close()
        return Samples(by_figure={self.name: Sample(value=rows / took_s, limit=rows / plain_s)}, notes=(note,))
