"""``capture_overhead``: what the capture's triggers cost those who write to the source."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.harness import Figure, Repetitions, Sample, Samples, Size
from benchmarks.shop import DELETE, INSERT, UPDATE, Shop, connect, make_shop
from raypipe.sources import open_source

BESIDE = "the same writes before capture was installed"
STATEMENTS = {"insert": INSERT, "update": UPDATE, "delete": DELETE}

Write = Callable[[sqlite3.Connection, str, int], None]


class CaptureOverhead:
    """Rows per second of a writer with WAL and synchronous NORMAL, with and without triggers."""

    name = "capture_overhead"
    about = "Rows per second that a writer inserts, updates and deletes (a third each) while every change is captured."
    figures = (
        Figure(name="capture_overhead_single", unit="rows/s", beside=f"{BESIDE}, one row in a transaction"),
        Figure(name="capture_overhead_bulk", unit="rows/s", beside=f"{BESIDE}, one statement for all rows"),
    )
    repetitions = Repetitions(full=5, quick=3)

    def run(self, folder: Path, size: Size) -> Samples:
        """Writes the same rows into two shops, one of which is captured."""
        plain, captured = (make_shop(_made(folder / name)) for name in ("plain", "captured"))
        _install(captured)
        samples: dict[str, Sample] = {}
        notes = []
        for way, write, rows in (
            ("single", _one_by_one, 3_000 if size is Size.FULL else 500),
            ("bulk", _at_once, 300_000 if size is Size.FULL else 30_000),
        ):
            limits, values = _seconds(plain, write, rows), _seconds(captured, write, rows)
            samples[f"capture_overhead_{way}"] = Sample(
                value=3 * rows / sum(values.values()), limit=3 * rows / sum(limits.values())
            )
            times = ", ".join(f"{name} {values[name] / limits[name]:.1f}" for name in STATEMENTS)
            notes.append(f"{way}: time with capture as a multiple of that without: {times}")
        return Samples(by_figure=samples, notes=notes)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _install(shop: Shop) -> None:
    source = open_source("shop", f"sqlite:///{shop.database}", ["orders"])
    source.open(None)
    source.close()


def _seconds(shop: Shop, write: Write, rows: int) -> dict[str, float]:
    seconds = {}
    with closing(connect(shop.database)) as database:
        for name, sql in STATEMENTS.items():
            began = time.perf_counter()
            write(database, sql, rows)
            seconds[name] = time.perf_counter() - began
    return seconds


def _one_by_one(database: sqlite3.Connection, sql: str, rows: int) -> None:
    for number in range(1, rows + 1):
        database.execute(sql, {"first": number, "last": number})


def _at_once(database: sqlite3.Connection, sql: str, rows: int) -> None:
    database.execute(sql, {"first": 1, "last": rows})
