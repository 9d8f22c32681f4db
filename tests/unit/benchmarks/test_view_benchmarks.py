"""The benchmarks of stateful steps run, at sizes of a second each, and tell every figure that they announce."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.harness import Benchmark, Size
from benchmarks.nexmark.queries import QUERIES
from benchmarks.tpch.queries import VALIDATION, steps
from benchmarks.view_fixed_cost import STEPS
from benchmarks.view_shared import STEPS as SHARED

# What makes each of them small: names of its module in other words.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "view_bulk": {},
    "view_scaling": {"EPOCHS": 3, "WARM_UP": 1},
    "view_join": {"EPOCHS": 3, "WARM_UP": 1},
    "view_fixed_cost": {"EPOCHS": 3, "WARM_UP": 1, "STEPS": dict(list(STEPS.items())[:2])},
    "view_shared": {"EPOCHS": 3, "WARM_UP": 1, "STEPS": dict(list(SHARED.items())[:2])},
    "view_epochs": {"MOST_EPOCHS": 2},
    "view_tpch": {"EPOCHS": 1, "steps": lambda _: {"q6": steps(VALIDATION)["q6"]}},
    "view_nexmark": {"EPOCHS": 1, "QUERIES": {"q2": QUERIES["q2"], "q7": QUERIES["q7"]}},
}


def test_every_benchmark_of_views_is_tried() -> None:
    assert set(SMALL) == {name for name in BENCHMARKS if name.startswith("view_")}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_of_views_tells_its_figures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(f"benchmarks.{name}")
    for constant, value in SMALL[name].items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, value)
    benchmark: Benchmark = getattr(module, BENCHMARKS[name])()
    samples = benchmark.run(tmp_path, Size.QUICK)
    assert set(samples.by_figure) == {figure.name for figure in benchmark.figures}
    for sample in samples.by_figure.values():
        assert sample.value > 0
        assert sample.limit is not None
        assert sample.limit > 0
