"""Results as people and programs read them: a table, JSON, a page of the docs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.harness import Report, Result, Size

HEAD = ("name", "value", "unit", "limit", "ratio", "goal", "holds")


def as_table(reports: Iterable[Report]) -> str:
    """One line for each figure, columns aligned; a missed goal is said loudly."""
    lines = [HEAD, *(_cells(result) for report in reports for result in report.results)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def as_json(reports: Iterable[Report]) -> str:
    """A list of objects, one for each figure."""
    return json.dumps([result.to_dict() for report in reports for result in report.results], indent=2) + "\n"


def as_markdown(reports: Sequence[Report], machine: Mapping[str, str], size: Size, left_out: Sequence[str] = ()) -> str:
    """The page ``docs/benchmarks.md``; says which benchmarks were left out of the run."""
    figures = [
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
        *("| " + " | ".join(_cells(result)) + " |" for report in reports for result in report.results),
    ]
    explained = []
    for report in reports:
        beside = "; ".join(f"`{result.figure.name}`: {result.figure.beside}" for result in report.results)
        explained += [
            f"## {report.benchmark.name}",
            "",
            report.benchmark.about,
            "",
            f"Beside it, in the same run: {beside}. Medians of {report.results[0].repetitions}.",
            "",
            *(f"* {note}" for note in report.notes),
            *([""] if report.notes else []),
        ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "<!-- Made by `python -m benchmarks --markdown docs/benchmarks.md`; do not edit. -->",
            "",
            "Each figure stands beside a limit or a peer that was measured in the same run, and the ratio between the",
            "two lasts longer than either number. Goals that are missed are listed like the others. `make bench` runs",
            f"them again. These are from a {size.value} run on:",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in machine.items()),
            "",
            *figures,
            "",
            *([f"Not in this run: {', '.join(f'`{name}`' for name in left_out)}.", ""] if left_out else []),
            *explained,
        ]
    )


def _cells(result: Result) -> tuple[str, ...]:
    goal = result.figure.goal
    return (
        result.figure.name,
        _number(result.value),
        result.figure.unit,
        _number(result.limit),
        _number(result.ratio),
        goal.text if goal else "",
        {True: "yes", False: "MISSED", None: ""}[result.holds],
    )


def _number(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
