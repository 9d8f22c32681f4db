"""``trace_probe``: what an epoch of 1,000 changes costs the state, at one and at ten million stored rows."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from raypipe.contracts import WEIGHT, TraceSchema
from raypipe.state import Remote, Store, checkpoint, restore

CHANGES = 1_000
GROUP_ROWS = 10
EPOCHS = 60
WARM_UP = 10  # the first probe of a piece also checks it
LOAD_ROWS = 1_000_000
ORDERS = TraceSchema(
    name="orders by customer",
    columns=pa.schema([("id", pa.int64()), ("customer", pa.int64()), ("amount", pa.int64())]),
    key=("customer",),
)


class TraceProbe:
    """A trace of orders by customer: an epoch probes the customers of its orders, adds the orders and commits."""

    name = "trace_probe"
    about = (
        f"An epoch of {CHANGES:,} orders over stored ones, {GROUP_ROWS} for each customer: all orders of their"
        " customers are fetched, the new ones added (probe, append) and made durable (commit, with its fsync)."
    )
    figures = (
        *(
            Figure(
                name=f"trace_probe_{size}",
                unit="ms",
                beside="NumPy alone: searchsorted and take on sorted arrays in memory, and sorting the new rows",
            )
            for size in ("1m", "10m")
        ),
        Figure(
            name="trace_growth",
            unit="ms",
            beside="probe and append at 1 M stored rows",
        ),
        *(
            Figure(name=f"trace_commit_{size}", unit="ms", beside="a file of as many bytes, with fsync")
            for size in ("1m", "10m")
        ),
        Figure(
            name="state_recovery",
            unit="s",
            beside="copying the files of the state",
            goal=Goal(text="<= 20 s for 10 M rows", of="value", at_most=20),
        ),
    )
    repetitions = Repetitions(full=3, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures both sizes; then restores the larger from a checkpoint on the same disk."""
        small, large = (1_000_000, 10_000_000) if size is Size.FULL else (100_000, 1_000_000)
        by_figure: dict[str, Sample] = {}
        notes = []
        probes = {}
        for rows, called in ((small, "1m"), (large, "10m")):
            store, loaded_s = _loaded(folder / called, rows)
            probe_ms, append_ms, commit_ms = _epochs(store, rows)
            probes[called] = probe_ms + append_ms
            by_figure[f"trace_probe_{called}"] = Sample(value=probe_ms + append_ms, limit=_numpy_ms(rows))
            by_figure[f"trace_commit_{called}"] = Sample(value=commit_ms, limit=_file_ms(folder / "file"))
            notes.append(
                f"{rows:,} rows: loaded in {loaded_s:.1f} s, probe {probe_ms:.2f} ms, append {append_ms:.2f} ms,"
                f" {store.bytes / rows:.0f} bytes a row on disk"
            )
            if called == "10m":
                by_figure["state_recovery"] = _recovered(store, folder, notes)
            store.close()
        by_figure["trace_growth"] = Sample(value=probes["10m"], limit=probes["1m"])
        return Samples(by_figure=by_figure, notes=tuple(notes))


def _rows(first: int, count: int, customers: int, random: np.random.Generator) -> pa.Table:
    return pa.table(
        {
            "id": np.arange(first, first + count),
            "customer": random.integers(0, customers, count),
            "amount": random.integers(0, 1000, count),
            WEIGHT: np.ones(count, np.int64),
        }
    )


def _loaded(folder: Path, rows: int) -> tuple[Store, float]:
    store = Store.open(folder, generation=1, identity="bench", traces=[ORDERS])
    random = np.random.default_rng(1)
    began = time.perf_counter()
    work = store.begin(None)
    for first in range(0, rows, LOAD_ROWS):
        work.trace(ORDERS.name).append(_rows(first, min(LOAD_ROWS, rows - first), rows // GROUP_ROWS, random))
    work.commit(1)
    store.settle()
    return store, time.perf_counter() - began


def _epochs(store: Store, rows: int) -> tuple[float, float, float]:
    """Medians of probe, append and commit, in milliseconds."""
    random = np.random.default_rng(2)
    spent: list[tuple[float, float, float]] = []
    for epoch in range(EPOCHS):
        changes = _rows(rows + epoch * CHANGES, CHANGES, rows // GROUP_ROWS, random)
        began = time.perf_counter()
        work = store.begin(epoch + 1)
        found = work.trace(ORDERS.name).probe(changes)
        probed = time.perf_counter()
        work.trace(ORDERS.name).append(changes)
        appended = time.perf_counter()
        work.commit(epoch + 2)
        store.keep([epoch + 1])
        committed = time.perf_counter()
        assert found.num_rows > CHANGES * GROUP_ROWS / 2
        spent.append((probed - began, appended - probed, committed - appended))
    probe, append, commit = (median(part) * 1e3 for part in zip(*spent[WARM_UP:], strict=True))
    return probe, append, commit


def _numpy_ms(rows: int) -> float:
    random = np.random.default_rng(1)
    customer = np.sort(random.integers(0, rows // GROUP_ROWS, rows))
    columns = [customer, np.arange(rows), random.integers(0, 1000, rows), np.ones(rows, np.int64)]
    spent = []
    for _ in range(EPOCHS):
        wanted: npt.NDArray[np.int64] = random.integers(0, rows // GROUP_ROWS, CHANGES)
        began = time.perf_counter()
        keys = np.unique(wanted)
        low, high = np.searchsorted(customer, keys, "left"), np.searchsorted(customer, keys, "right")
        counts = high - low
        at = np.arange(int(counts.sum())) + np.repeat(low - (np.cumsum(counts) - counts), counts)
        for column in columns:
            column.take(at)
        order = np.argsort(wanted)
        for column in columns:
            column[:CHANGES].take(order)
        spent.append(time.perf_counter() - began)
    return median(spent[WARM_UP:]) * 1e3


def _file_ms(path: Path) -> float:

    content, spent = bytes(CHANGES * 40), []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        spent.append(time.perf_counter() - began)
    return median(spent) * 1e3


def _recovered(store: Store, folder: Path, notes: list[str]) -> Sample:
    remote = Remote(f"file://{folder}/saved")
    began = time.perf_counter()
    uploaded = checkpoint(store, EPOCHS + 1, remote)
    saved = time.perf_counter()
    restored = restore([remote], folder / "other", generation=1, identity="bench", traces=[ORDERS])
    ready = time.perf_counter()
    found = sum(batch.num_rows for batch in restored.begin(EPOCHS + 1).trace(ORDERS.name).rows())
    read = time.perf_counter()
    copied = time.perf_counter()
    shutil.copytree(folder / "10m", folder / "copy")
    copy_s = time.perf_counter() - copied
    restored.close()
    notes.append(
        f"checkpoint of {uploaded.bytes / 1e6:,.0f} MB written in {saved - began:.1f} s, restored in"
        f" {ready - saved:.1f} s; all {found:,} rows read after that in {read - ready:.1f} s"
    )
    return Sample(value=ready - saved, limit=copy_s)
