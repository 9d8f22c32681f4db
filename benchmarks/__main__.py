"""``python -m benchmarks``: runs benchmarks and prints each figure beside its limit.

A missed goal is a result, not an error: the exit code is 0 whenever every benchmark could be run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks.harness import Benchmark, CannotRun, Report, Size, measure
from benchmarks.machine import machine
from benchmarks.page import renew, section_of
from benchmarks.report import as_json, as_table

# Imported one by one when their turn comes: a benchmark of memory or of start-up must not pay for its neighbours.
BENCHMARKS = {
    "startup": "Startup",
    "trace_probe": "TraceProbe",
    "log_roundtrip": "LogRoundtrip",
    "capture_overhead": "CaptureOverhead",
    "shop_backlog": "ShopBacklog",
    "freshness_ray": "FreshnessRay",
    "memory_flat": "MemoryFlat",
    "pg_decode": "PgDecode",
    "pg_stream_bulk": "PgStreamBulk",
    "pg_stream_small": "PgStreamSmall",
    "pg_catchup": "PgCatchup",
    "pg_snapshot": "PgSnapshot",
    "debezium_side_by_side": "DebeziumSideBySide",
    "kafka_freshness": "KafkaFreshness",
    "view_scaling": "ViewScaling",
    "view_join": "ViewJoin",
    "view_fixed_cost": "ViewFixedCost",
    "view_shared": "ViewShared",
    "view_bulk": "ViewBulk",
    "view_epochs": "ViewEpochs",
    "view_tpch": "ViewTpch",
    "view_nexmark": "ViewNexmark",
    "flink_side_by_side": "FlinkSideBySide",
}


# Back to the beginning of the line, and forget the rest of it.
CLEAR = "\r\x1b[K"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; returns the exit code."""
    asked = _parser().parse_args(arguments)
    size = Size.QUICK if asked.quick else Size.FULL
    about = machine()
    for name, value in about.items():
        print(f"{name + ':':20}{value}")
    reports: list[Report] = []
    left_out = False
    for name in asked.only or BENCHMARKS:
        try:
            benchmark: Benchmark = getattr(import_module(f"benchmarks.{name}"), BENCHMARKS[name])()
            report = measure(benchmark, size, partial(_tell, name))
        except CannotRun as missing:
            _clear()
            print(f"\n{name}: cannot run. {missing}")
            left_out = True
            continue
        reports.append(report)
        _clear()
        print(f"\n{name}: {benchmark.about}")
        for note in report.notes:
            print(f"  {note}")
        if asked.markdown:  # after each: a run that is stopped has written what it knows
            renew(asked.markdown, [section_of(report, about)], about, size, list(BENCHMARKS))
    print(f"\n{as_table(reports)}")
    if asked.json:
        asked.json.write_text(as_json(reports))
    return int(left_out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Each figure beside its limit, in one run."
    )
    parser.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)}"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work or less: orders of magnitude only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of objects")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="renew the page of the docs and its data beside it"
    )
    return parser


def _tell(name: str, number: int, of: int) -> None:
    """One line of progress that the next one replaces; nothing when nobody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{CLEAR}{name} {number}/{of}")
        sys.stderr.flush()


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write(CLEAR)


if __name__ == "__main__":
    sys.exit(main())
