"""What a benchmark is, and how its repetitions become one result."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from statistics import median
from typing import Protocol


class CannotRun(Exception):
    """A benchmark needs something that is not on this machine; the message says what, and how to get it."""


class Size(Enum):
    """How much work a benchmark does."""

    FULL = "full"  # what the published figures come from
    QUICK = "quick"  # a tenth or less: does it run, is the order of magnitude right


@dataclass(frozen=True, kw_only=True)
class Repetitions:
    """How often a benchmark is run; the median needs at least three to ignore one disturbance."""

    full: int
    quick: int

    def of(self, size: Size) -> int:
        """For a size of work."""
        return self.full if size is Size.FULL else self.quick


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a figure should be; bounds on its value, or on its ratio to the limit.

    Attributes:
        text: For people, with the unit.
        of: ``value`` or ``ratio``.
        at_least: Lower bound, inclusive.
        at_most: Upper bound, inclusive.
    """

    text: str
    of: str
    at_least: float = -math.inf
    at_most: float = math.inf

    def holds(self, value: float, ratio: float | None) -> bool:
        """Whether the figure reaches it; False for a goal on a ratio that could not be measured."""
        measured = value if self.of == "value" else ratio
        return measured is not None and self.at_least <= measured <= self.at_most


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that a benchmark reports.

    Attributes:
        name: Stable, snake_case: results are compared over time by it.
        unit: Of value and limit.
        beside: What the limit is, in a few words.
        goal: None if the number only informs.
    """

    name: str
    unit: str
    beside: str
    goal: Goal | None = None


def latency_figures(name: str, beside: str, *, p50_ms: float, p99_ms: float) -> tuple[Figure, ...]:
    """Two percentiles of a latency, ``NAME_p50`` and ``NAME_p99``, and what they should be at most."""
    return tuple(
        Figure(
            name=f"{name}_p{at}",
            unit="ms",
            beside=beside,
            goal=Goal(text=f"<= {at_most:g} ms", of="value", at_most=at_most),
        )
        for at, at_most in ((50, p50_ms), (99, p99_ms))
    )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One repetition of one figure.

    Attributes:
        value: Of raypipe.
        limit: Of what stands beside it, measured in the same repetition.
    """

    value: float
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One repetition of a benchmark.

    Attributes:
        by_figure: A sample for each of its figures.
        notes: What explains them: shares of time, sizes. Those of the last repetition are shown.
    """

    by_figure: Mapping[str, Sample]
    notes: Sequence[str] = ()


class Benchmark(Protocol):
    """Measures one thing."""

    name: str
    about: str
    figures: tuple[Figure, ...]
    repetitions: Repetitions

    def run(self, folder: Path, size: Size) -> Samples:
        """Measures once, in an empty folder of its own.

        Raises:
            CannotRun: something is not installed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """A figure after all repetitions.

    Attributes:
        figure: What was measured.
        value: Median.
        limit: Median.
        ratio: Median of the ratios value / limit within each repetition: what slows down both leaves it alone.
        repetitions: How many.
    """

    figure: Figure
    value: float
    limit: float | None
    ratio: float | None
    repetitions: int

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        return self.figure.goal.holds(self.value, self.ratio) if self.figure.goal else None

    def to_dict(self) -> dict[str, object]:
        """As ``--json`` writes it."""
        return {
            "name": self.figure.name,
            "value": self.value,
            "unit": self.figure.unit,
            "limit": self.limit,
            "ratio": self.ratio,
            "goal": self.figure.goal.text if self.figure.goal else None,
            "holds": self.holds,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """A benchmark's results and what explains them."""

    benchmark: Benchmark
    results: tuple[Result, ...]
    notes: tuple[str, ...] = field(default=())


def measure(benchmark: Benchmark, size: Size, told: Callable[[int, int], None]) -> Report:
    """Runs a benchmark's repetitions, each in a fresh folder.

    Args:
        benchmark: To run.
        size: How much work.
        told: Called before each repetition with its number, from 1, and how many there are.
    """
    count = benchmark.repetitions.of(size)
    runs: list[Samples] = []
    for number in range(1, count + 1):
        told(number, count)
        with tempfile.TemporaryDirectory(prefix="rpbench") as folder:
            runs.append(benchmark.run(Path(folder), size))
    return Report(
        benchmark=benchmark,
        results=tuple(_result(figure, [run.by_figure[figure.name] for run in runs]) for figure in benchmark.figures),
        notes=tuple(runs[-1].notes),
    )


def _result(figure: Figure, samples: Sequence[Sample]) -> Result:
    limits = [sample.limit for sample in samples if sample.limit is not None]
    return Result(
        figure=figure,
        value=median(sample.value for sample in samples),
        limit=median(limits) if limits else None,
        ratio=median(_ratios(samples)) if limits else None,
        repetitions=len(samples),
    )


def _ratios(samples: Sequence[Sample]) -> Iterator[float]:
    return (sample.value / sample.limit for sample in samples if sample.limit)
