"""What a view costs that has hardly anything to do."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.view_rig import ORDERS, Changes, Rig, load, orders

STEPS = {
    "by_customer": "SELECT customer_id, count(*) AS n, sum(amount) AS total FROM shop.orders GROUP BY customer_id",
    "by_status": "SELECT status, count(*) AS n, avg(amount) AS mean FROM shop.orders GROUP BY status",
    "paid": "SELECT customer_id, sum(amount) AS total FROM shop.orders WHERE status = 'paid' GROUP BY customer_id",
    "big": "SELECT customer_id, count(*) AS n FROM shop.orders GROUP BY customer_id HAVING count(*) > 3",
    "extremes": "SELECT customer_id, min(amount) AS low, max(amount) AS high FROM shop.orders GROUP BY customer_id",
    "whole": "SELECT count(*) AS n, sum(amount) AS total FROM shop.orders",
    "customers": "SELECT DISTINCT customer_id FROM shop.orders",
    "latest": "SELECT order_id, customer_id FROM shop.orders QUALIFY"
    " row_number() OVER (PARTITION BY customer_id ORDER BY order_id DESC) = 1",
    "pairs": "SELECT a.order_id, b.order_id AS other FROM shop.orders a JOIN shop.orders b"
    " ON a.customer_id = b.customer_id AND a.order_id < b.order_id",
    "lonely": "SELECT a.order_id FROM shop.orders a ANTI JOIN (SELECT * FROM shop.orders WHERE status = 'paid') b"
    " ON a.customer_id = b.customer_id",
}
CHANGES = 100
ROWS = 20_000
EPOCHS = 40
WARM_UP = 10


class ViewFixedCost:
    """Ten small views over the same changes."""

    name = "view_fixed_cost"
    about = (
        f"{len(STEPS)} views of {ROWS:,} orders, three each customer, in one epoch of {CHANGES} changes: from the"
        " changes in memory to what sinks are told, the state durable. Milliseconds for each view."
    )
    figures = (
        Figure(
            name="view_fixed_cost",
            unit="ms",
            beside="the first of them alone",
            goal=Goal(text="<= 5 ms", of="value", at_most=5),
        ),
    )
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures all of them together, then the first alone."""
        rows = ROWS if size is Size.FULL else ROWS // 10
        together, told = _epoch_ms(folder / "ten", STEPS, rows)
        first = next(iter(STEPS))
        alone, _ = _epoch_ms(folder / "one", {first: STEPS[first]}, rows)
        return Samples(
            by_figure={self.name: Sample(value=together / len(STEPS), limit=alone)},
            notes=(f"an epoch takes {together:.1f} ms and tells {told:,} row images of all views",),
        )


def _epoch_ms(folder: Path, steps: dict[str, str], rows: int) -> tuple[float, int]:
    rig = Rig(folder, [ORDERS], steps)
    try:
        rig.epoch({"shop.orders": load(ORDERS, orders(np.arange(rows), rows // 3, np.random.default_rng(1)))})
        changes = Changes(rows, rows // 3)
        spent, told = [], 0
        for _ in range(EPOCHS):
            took_s, told = rig.epoch({"shop.orders": changes.take(CHANGES, rig.commit + 1)})
            spent.append(took_s * 1e3)
        return median(spent[WARM_UP:]), told
    finally:
        rig.close()
