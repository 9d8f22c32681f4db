"""``view_tpch``: TPC-H's 22 queries as stateful steps under a refresh stream, beside running them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.harness import Figure, Repetitions, Sample, Samples, Size
from benchmarks.kept import pace_of
from benchmarks.tpch.invent import Inventor, Scale
from benchmarks.tpch.queries import VALIDATION, steps
from benchmarks.tpch.refresh import Refreshed

EPOCHS = 5
# New ones, and as many that go; with line items and updates an epoch has about twelve times as many changes.
ORDERS = 100


class ViewTpch:
    """Every query by itself: loaded, then carried over epochs of new, gone and updated rows."""

    name = "view_tpch"
    about = (
        f"Each of TPC-H's 22 queries as a step, carried over epochs of {ORDERS} new orders, {ORDERS} that go and"
        " updates of all large tables, state durable at each; checked against DuckDB."
    )
    figures = (
        Figure(name="tpch_epoch", unit="ms, mean of the 22", beside="DuckDB runs the query again, one thread"),
        Figure(name="tpch_changes", unit="changes/s, mean of the 22", beside="as many changes, the query run again"),
    )
    repetitions = Repetitions(full=1, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures one query after the other over the same tables."""
        scale = Scale(factor=0.1 if size is Size.FULL else 0.005)
        refreshed = Refreshed(Inventor(scale, 1))
        rows = refreshed.load()
        changes: list[int] = []

        def epochs() -> Iterator[None]:
            for _ in range(EPOCHS):
                changes.append(refreshed.insert(ORDERS) + refreshed.delete(ORDERS) + refreshed.update(ORDERS // 2))
                yield

        with closing(refreshed.tables) as tables:
            paces = {
                name: pace_of(folder / name, tables, name, sql, epochs()) for name, sql in steps(VALIDATION).items()
            }
        mean = sum(changes) / len(changes)
        spent = sum(pace.epoch_s for pace in paces.values()) / len(paces)
        again = sum(pace.batch_s for pace in paces.values()) / len(paces)
        told = ", ".join(f"{name} {pace.epoch_s * 1e3:.0f} ({pace.batch_s * 1e3:.0f})" for name, pace in paces.items())
        return Samples(
            by_figure={
                "tpch_epoch": Sample(value=spent * 1e3, limit=again * 1e3),
                "tpch_changes": Sample(value=mean / spent, limit=mean / again),
            },
            notes=(
                f"scale {scale.factor:g}, {rows:,} rows; epochs of about {mean:,.0f} changes",
                f"ms for each epoch (and for DuckDB to run it again): {told}",
                f"all 22 loaded in {sum(pace.load_s for pace in paces.values()):.1f} s",
            ),
        )
