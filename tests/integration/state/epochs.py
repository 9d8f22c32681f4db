"""A writer of state whose every epoch is known beforehand: run as a program to be killed, or asked what it should hold.

Arguments: folder, generation, last version. Tells each version it has committed, on a line of its own.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pyarrow as pa
from trace_model import Model, Row, schema_of, weighted

from raypipe.contracts import TraceSchema
from raypipe.state import Limits, Remote, Store, checkpoint

LAST = 24
LIMITS = Limits(block_bytes=2_000, slice_bytes=1_000, spill_bytes=4_000, tier=2, small_rows=16, most_runs=8)
MANY_AT, MANY = 4, 300  # so many at once are written before the commit, in threads
BY_KEY = schema_of({"id": pa.int64(), "name": pa.string()}, ["name"], "by_name")
ALL = schema_of({"name": pa.string(), "count": pa.int64()}, [], "all")
TRACES = (BY_KEY, ALL)


def changes(version: int) -> dict[str, list[tuple[Row, int]]]:
    """What an epoch adds: inserts, sometimes many, and deletes of what earlier ones inserted; some keys are NULL."""
    chance = random.Random(version)
    rows: list[tuple[Row, int]] = []
    for number in range(40 if version % MANY_AT else MANY):
        rows.append(((version * 100 + number, name_of(version * 100 + number)), 1))
        gone = chance.randrange(version * 100) if version else None
        if gone is not None and gone % 100 < 40 and chance.random() < 0.5:
            rows.append(((gone, name_of(gone)), -1))
    return {"by_name": rows, "all": [((name_of(number), 1), 1) for number in range(version, version + 5)]}


def name_of(number: int) -> str | None:
    return None if number % 7 == 0 else f"name {number % 13}"


def should_hold(version: int) -> dict[str, Model]:
    models = {schema.name: Model(schema) for schema in TRACES}
    for each in range(1, version + 1):
        for name, rows in changes(each).items():
            models[name].append(rows)
    return models


def opened(folder: Path, generation: int, traces: tuple[TraceSchema, ...] = TRACES) -> Store:
    return Store.open(folder, generation=generation, identity="epochs", traces=traces, limits=LIMITS)


def carry(store: Store, version: int) -> None:
    """One epoch, as a consumer does it: two versions are kept."""
    work = store.begin(version - 1 or None)
    for name, rows in changes(version).items():
        trace = work.trace(name)
        trace.append(weighted(trace.schema, rows))
    work.commit(version, note=f"{version}")
    store.keep([version - 1])
    store.settle()


def saved(folder: Path) -> Remote:
    return Remote(f"file://{folder.parent}/saved")


if __name__ == "__main__":
    store = opened(Path(sys.argv[1]), int(sys.argv[2]))
    for version in range(max(store.versions(), default=0) + 1, int(sys.argv[3]) + 1):
        carry(store, version)
        print(version, flush=True)
        if version % 3 == 0:
            checkpoint(store, version, saved(Path(sys.argv[1])))
    store.close()
