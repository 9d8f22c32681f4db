"""What ten steps save by having operators and traces alike."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from benchmarks.harness import Figure, Repetitions, Sample, Samples, Size
from benchmarks.view_rig import ORDERS, Change, Changes, Rig, apart, as_planned, load, orders, table

CUSTOMERS = table("customers", {"id": pa.int64(), "country": pa.int64()})
AGGREGATES = (
    "sum(o.amount)",
    "avg(o.amount)",
    "count(o.amount)",
    "sum(o.amount + 1)",
    "sum(2 * o.amount)",
    "avg(o.amount - 1)",
    "sum(CASE WHEN o.amount > 100 THEN o.amount END)",
    "count(CASE WHEN o.amount > 500 THEN 1 END)",
    "sum(o.amount) FILTER (o.amount < 50)",
    "sum(o.amount) - 2 * count(o.amount)",
)
STEPS = {
    f"step_{place}": f"SELECT c.country, {aggregate} AS made FROM shop.orders o"
    " JOIN shop.customers c ON c.id = o.customer_id GROUP BY c.country"
    for place, aggregate in enumerate(AGGREGATES)
}
COUNTRIES = 200
CHANGES = 1_000
EPOCHS = 30
WARM_UP = 10


class ViewShared:
    """Ten steps that group one join."""

    name = "view_shared"
    about = (
        f"{len(STEPS)} steps that group orders JOIN customers by country, each in its own way, in epochs of {CHANGES:,}"
        " changes; the join and its traces are one. From the changes in memory to what sinks are told, the state"
        " durable."
    )
    figures = (
        Figure(name="view_shared", unit="ms", beside="the same, each step for itself"),
        Figure(name="view_shared_bytes", unit="MB", beside="the same, each step for itself"),
    )
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures with what is alike shared, then without."""
        rows = 300_000 if size is Size.FULL else 5_000
        together = _measured(folder / "together", as_planned, rows)
        alone = _measured(folder / "apart", apart, rows)
        names = [figure.name for figure in self.figures]
        return Samples(
            by_figure={
                name: Sample(value=shared, limit=own) for name, shared, own in zip(names, together, alone, strict=True)
            }
        )


def _measured(folder: Path, changed: Change, rows: int) -> tuple[float, float]:
    """Milliseconds for an epoch, and megabytes of state."""
    random = np.random.default_rng(1)
    ids = np.arange(rows)
    rig = Rig(folder, [ORDERS, CUSTOMERS], STEPS, changed)
    try:
        customers = pa.table({"id": ids, "country": random.integers(0, COUNTRIES, rows)}, schema=CUSTOMERS.arrow())
        rig.epoch(
            {
                "shop.customers": load(CUSTOMERS, customers),
                "shop.orders": load(ORDERS, orders(ids, rows, np.random.default_rng(2))),
            }
        )
        changes = Changes(rows, rows)
        spent = [rig.epoch({"shop.orders": changes.take(CHANGES, rig.commit + 1)})[0] * 1e3 for _ in range(EPOCHS)]
        rig.store.settle()
        return median(spent[WARM_UP:]), rig.store.bytes / 1e6
    finally:
        rig.close()
