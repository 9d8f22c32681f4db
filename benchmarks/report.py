"""Results as people and programs read them: a table, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from benchmarks.harness import Report

_HOLDS: Mapping[object, str] = {True: "yes", False: "MISSED"}
HEAD = ("name", "value", "unit", "limit", "ratio", "goal", "holds")


def as_table(reports: Iterable[Report]) -> str:
    """One line for each figure, columns aligned; a missed goal is said loudly."""
    lines = [HEAD, *(cells(result.to_dict()) for report in reports for result in report.results)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def as_json(reports: Iterable[Report]) -> str:
    """A list of objects, one for each figure."""
    return json.dumps([result.to_dict() for report in reports for result in report.results], indent=2) + "\n"


def cells(result: Mapping[str, object]) -> tuple[str, ...]:
    """A figure, as ``--json`` writes it, as the cells under `HEAD`."""
    return (
        str(result["name"]),
        _number(result["value"]),
        str(result["unit"]),
        _number(result["limit"]),
        _number(result["ratio"]),
        str(result["goal"] or ""),
        _HOLDS.get(result["holds"], ""),
    )


def _number(number: object) -> str:
    if not isinstance(number, float | int):
        return ""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
