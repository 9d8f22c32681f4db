"""The page of figures: a run of some benchmarks renews those, and mixes no machines."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.harness import Figure, Goal, Report, Result, Size
from benchmarks.page import renew, section_of

MACHINE = {
    "processor": "a",
    "cores": "2",
    "memory": "24 GiB",
    "load": "0.1 before the first benchmark",
    "duckdb": "2.0",
}
ORDER = ["first", "second", "third"]


class Measured:
    """A benchmark by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.about = f"What {name} is about."


def measured(page: Path, name: str, value: float, machine: dict[str, str] | None = None, size: Size = Size.FULL) -> str:
    return told(page, name, {f"{name}_rate": value}, (f"note of {name}",), machine, size)


def told(
    page: Path,
    name: str,
    values: dict[str, float],
    notes: tuple[str, ...],
    machine: dict[str, str] | None = None,
    size: Size = Size.FULL,
) -> str:
    goal = Goal(text=">= 10 rows/s", of="value", at_least=10)
    results = tuple(
        Result(
            figure=Figure(name=figure, unit="rows/s", beside="the limit", goal=goal),
            value=value,
            limit=100.0,
            ratio=value / 100,
            repetitions=3,
        )
        for figure, value in values.items()
    )
    report = Report(benchmark=Measured(name), results=results, notes=notes)  # type: ignore[arg-type]
    about = MACHINE | (machine or {})
    renew(page, [section_of(report, about)], about, size, ORDER)
    return page.read_text()


def test_a_run_of_one_benchmark_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    measured(page, "second", 12.0)
    text = measured(page, "first", 5.0)
    assert "| first_rate | 5 | rows/s | 100 | 0.05 | >= 10 rows/s | MISSED |" in text
    assert "| second_rate | 12 | rows/s | 100 | 0.12 | >= 10 rows/s | yes |" in text
    assert text.index("## first") < text.index("## second")
    assert "Not measured here: `third`." in text
    renewed = measured(page, "second", 30.0)
    assert "| second_rate | 30 |" in renewed
    assert "second_rate | 12" not in renewed
    assert [each["name"] for each in json.loads(page.with_suffix(".json").read_text())["sections"]] == ORDER[:2]


def test_figures_of_another_machine_or_of_less_work_do_not_stand_beside_new_ones(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    measured(page, "second", 12.0)
    assert "second_rate" not in measured(page, "first", 5.0, {"cores": "16"})
    measured(page, "second", 12.0, {"cores": "16"})
    assert "second_rate" not in measured(page, "first", 5.0, {"cores": "16"}, Size.QUICK)
    assert "second_rate" in measured(page, "second", 5.0, {"cores": "16", "duckdb": "2.1"}, Size.QUICK)


def test_a_run_of_some_figures_of_a_benchmark_leaves_its_others_and_what_explains_them(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    told(page, "first", {"a": 11.0, "b": 12.0}, ("in all, two", "a, slow", "b, also slow"))
    text = told(page, "first", {"b": 30.0}, ("in all, one", "b, fast"), {"load": "9"})
    assert "| a | 11 |" in text
    assert "| b | 30 |" in text
    assert text.index("| a |") < text.index("| b |")
    assert [line for line in text.splitlines() if line.startswith("* ")] == ["* in all, one", "* b, fast", "* a, slow"]
    assert "load 9; of what the last notes tell, on" in text
    assert "| a | 11 |" not in told(page, "first", {"c": 1.0}, ())
