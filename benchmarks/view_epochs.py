"""What the size of an epoch makes of the cost of a change: the fixed cost of an epoch is shared by its changes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Figure, Repetitions, Sample, Samples, Size
from benchmarks.view_rig import ORDERS, Changes, Rig, load, orders

SQL = (
    "SELECT customer_id, count(*) AS n, sum(amount) AS total, max(amount) AS most FROM shop.orders"
    " WHERE status <> 'cancelled' GROUP BY customer_id"
)
WITHOUT_MAX = SQL.replace(", max(amount) AS most", "")
CUSTOMERS = 100_000
SIZES = (100, 1_000, 5_000, 50_000, 500_000)
# Changes that are told at each size, at most: enough for a second or so.
MOST_CHANGES, MOST_EPOCHS = 1_000_000, 40


class ViewEpochs:
    """Changes of orders in epochs of several sizes."""

    name = "view_epochs"
    about = (
        f"Changes per CPU-second (all threads) of count, sum and max by customer, {CUSTOMERS:,} of them, in epochs of"
        " several sizes: from the changes in memory to what sinks are told, the state durable at every epoch."
    )
    figures = tuple(
        Figure(name=f"view_epochs_{size}", unit="changes/CPU-s", beside="the same without max") for size in SIZES
    )
    repetitions = Repetitions(full=1, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures the curve."""
        quick = size is Size.QUICK
        by_figure = {}
        for changes in SIZES:
            taken = min(changes, 20_000) if quick else changes
            epochs = 2 if quick else max(2, min(MOST_EPOCHS, MOST_CHANGES // changes))
            figures = [
                _per_cpu_second(folder / f"{changes}-{place}", sql, taken, epochs, 20_000 if quick else 1_000_000)
                for place, sql in enumerate((SQL, WITHOUT_MAX))
            ]
            by_figure[f"view_epochs_{changes}"] = Sample(value=figures[0], limit=figures[1])
        return Samples(by_figure=by_figure)


def _per_cpu_second(folder: Path, sql: str, changes: int, epochs: int, rows: int) -> float:
    rig = Rig(folder, [ORDERS], {"totals": sql})
    try:
        rig.epoch({"shop.orders": load(ORDERS, orders(np.arange(rows), CUSTOMERS, np.random.default_rng(1)))})
        rig.store.settle()
        source = Changes(rows, CUSTOMERS)
        rig.epoch({"shop.orders": source.take(changes, rig.commit + 1)})
        spent_s = 0.0
        for _ in range(epochs):
            told = {"shop.orders": source.take(changes, rig.commit + 1)}
            began = time.process_time()
            rig.epoch(told)
            spent_s += time.process_time() - began
        return changes * epochs / spent_s
    finally:
        rig.close()
