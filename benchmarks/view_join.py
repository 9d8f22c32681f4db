"""What an epoch of 1,000 changes costs through two joins and an aggregate over their rows."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.view_rig import ORDERS, Changes, Rig, load, orders, table

CUSTOMERS = table("customers", {"id": pa.int64(), "region_id": pa.int64()})
REGIONS = table("regions", {"id": pa.int64(), "country": pa.int64()})
SQL = (
    "SELECT r.country, count(*) AS n, sum(o.amount) AS total FROM shop.orders o"
    " JOIN shop.customers c ON c.id = o.customer_id JOIN shop.regions r ON r.id = c.region_id GROUP BY r.country"
)
COUNTRIES = 200
CHANGES = 1_000
EPOCHS = 30
WARM_UP = 10


class ViewJoin:
    """Loads three tables of one size, then tells changes of the first."""

    name = "view_join"
    about = (
        f"An epoch of {CHANGES:,} changes through orders JOIN customers JOIN regions, counted and summed by country, as"
        " many rows in each table: from the changes in memory to what sinks are told, the state durable."
    )
    figures = (
        Figure(
            name="view_join",
            unit="ms",
            beside="the same epoch at a tenth of the rows",
            goal=Goal(text="<= 40 ms", of="value", at_most=40),
        ),
    )
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures at two sizes."""
        rows = 1_000_000 if size is Size.FULL else 20_000
        small, _ = _epoch_ms(folder / "small", rows // 10)
        took, note = _epoch_ms(folder / "large", rows)
        return Samples(by_figure={self.name: Sample(value=took, limit=small)}, notes=(note,))


def _epoch_ms(folder: Path, rows: int) -> tuple[float, str]:
    random = np.random.default_rng(1)
    ids = np.arange(rows)
    rig = Rig(folder, [ORDERS, CUSTOMERS, REGIONS], {"by_country": SQL})
    try:
        customers = pa.table({"id": ids, "region_id": random.integers(0, rows, rows)}, schema=CUSTOMERS.arrow())
        regions = pa.table({"id": ids, "country": random.integers(0, COUNTRIES, rows)}, schema=REGIONS.arrow())
        load_s, _ = rig.epoch(
            {
                "shop.orders": load(ORDERS, orders(ids, rows, random)),
                "shop.customers": load(CUSTOMERS, customers),
                "shop.regions": load(REGIONS, regions),
            }
        )
        rig.store.settle()
        changes = Changes(rows, rows)
        epochs = ({"shop.orders": changes.take(CHANGES, rig.commit + 1)} for _ in range(EPOCHS))
        spent = [rig.epoch(told)[0] * 1e3 for told in epochs]
        took = spent[WARM_UP:]
        note = f"{rows:,} rows in each table, loaded in {load_s:.1f} s; an epoch {min(took):.1f} to {max(took):.1f} ms"
        return median(took), note
    finally:
        rig.close()
