"""``flink_side_by_side``: raypipe and Apache Flink answer the same questions over the same files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flink.contest import Cost
from benchmarks.flink.feeds import fill
from benchmarks.flink.inputs import CHANGING, make_inputs
from benchmarks.flink.installation import Flink, find
from benchmarks.flink.queries import NAMED, QUERIES, Query
from benchmarks.flink.settings import HEAP, JVM, ROCKSDB
from benchmarks.flink.sides import Course, WrongAnswer, by_flink, by_raypipe
from benchmarks.harness import CannotRun, Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.view_epochs import SIZES

# Names of questions, with blanks between them: only those are asked. All of them take half an hour.
ONLY = "RAYPIPE_FLINK_QUERIES"

ROWS, MEMORY = "rows/CPU-s", "MB"
FLINK = "Flink, state in heap"
ROCKSDB_GOAL = Goal(text="ratio >= 5", of="ratio", at_least=5.0)
MEMORY_GOAL = Goal(text="ratio <= 1/3", of="ratio", at_most=1 / 3)
# The question whose cost is shown for epochs of several sizes.
CURVE = "A"
# Changes that such a size is measured over, at most, and epochs.
_CURVE_LINES, _CURVE_EPOCHS = 1_000_000, 40
_ORDERS, _EVENTS = ("orders", "customers"), ("person", "auction", "bid")


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much is read.

    Attributes:
        named: Changes of orders, or events, of the questions in ``NAMED``.
        others: Events of the other ones.
        checked: Of the input whose answers are compared.
    """

    named: int
    others: int
    checked: int


WORK = {
    Size.FULL: Work(named=2_000_000, others=2_000_000, checked=100_000),
    Size.QUICK: Work(named=100_000, others=100_000, checked=20_000),
}


class FlinkSideBySide:
    """Processor time, and memory, of the same questions."""

    name = "flink_side_by_side"
    about = (
        "Changes (rows of Nexmark's streams) per CPU-second of all processes of a side, from the bytes of the same"
        " files to the answer, or for _log from raypipe's own log; raypipe's state durable at every epoch of at most a"
        " second, Flink's at checkpoints every ten. Both answers are compared with DuckDB's."
    )
    repetitions = Repetitions(full=1, quick=1)

    def __init__(self) -> None:
        self.queries = asked(os.environ.get(ONLY, ""))
        self.figures = tuple(figure for query in self.queries for figure in figures_of(query))

    def run(self, folder: Path, size: Size) -> Samples:
        """Asks one question after the other: of Flink, of raypipe, of raypipe with its log."""
        flink, work = find(), WORK[size]
        by_figure: dict[str, Sample] = {}
        notes = [
            f"Flink {flink.version} ({flink.java}), one task, object reuse, {JVM}, checkpoints every 10 s; raypipe in"
            " one process, which decodes the files with DuckDB and pyarrow, or reads its log",
            "what counts begins when each side has answered the question over a small input, JVM and JIT warm, its"
            " answer compared",
        ]
        courses = Courses(folder, work)
        for query in self.queries:
            contest = Contest(flink, query, courses.of(query), folder / query.name)
            try:
                by_figure.update(contest.samples())
            except (WrongAnswer, RuntimeError) as failed:
                notes.append(f"{query.name} does not count: {failed}")
            notes.extend(contest.notes)
        # What was not measured has no figure; the note says why.
        self.figures = tuple(figure for figure in self.figures if figure.name in by_figure)
        return Samples(by_figure=by_figure, notes=tuple(notes))


def asked(names: str) -> tuple[Query, ...]:
    """The questions of that name; all without any.

    Raises:
        CannotRun: there is no such question.
    """
    unknown = [name for name in names.split() if name not in QUERIES]
    if unknown:
        raise CannotRun(f"{ONLY} names {', '.join(unknown)}; there are {', '.join(QUERIES)}.")
    return tuple(QUERIES[name] for name in names.split() or QUERIES)


def figures_of(query: Query) -> Iterator[Figure]:
    """All of a question."""
    name = f"flink_{query.name}"
    ahead = Goal(text=f"ratio >= {query.goal:g}", of="ratio", at_least=query.goal)
    yield Figure(name=name, unit=ROWS, beside=FLINK, goal=ahead)
    yield Figure(name=f"{name}_log", unit=ROWS, beside=FLINK, goal=ahead)
    yield Figure(name=f"{name}_memory", unit=MEMORY, beside=f"{FLINK}: most of RAM, its heap 4 GiB", goal=MEMORY_GOAL)
    if query.name in NAMED:
        yield Figure(name=f"{name}_rocksdb", unit=ROWS, beside="Flink, state in RocksDB", goal=ROCKSDB_GOAL)
    if query.name == CURVE:
        for lines in SIZES:
            yield Figure(name=f"{name}_epochs_{lines}", unit=ROWS, beside=f"{FLINK}, whose work knows no epochs")


class Courses:
    """Inputs, made when a question first needs them.

    Args:
        folder: For the files.
        work: How much.
    """

    def __init__(self, folder: Path, work: Work) -> None:
        self._folder = folder
        self._work = work
        self._made: dict[str, Course] = {}

    def of(self, query: Query) -> Course:
        """What a question is asked over."""
        tables = _ORDERS if query.tables[0] in CHANGING else _EVENTS
        rows = self._work.named if query.name in NAMED else self._work.others
        name = f"{tables[0]}-{rows}"
        if name not in self._made:
            self._made[name] = Course(
                checked=make_inputs(self._folder / name / "checked", tables, self._work.checked),
                measured=make_inputs(self._folder / name / "measured", tables, rows),
            )
        return self._made[name]


class Contest:
    """One question, asked of everybody.

    Args:
        flink: The installation.
        query: The question.
        course: What it is asked over.
        folder: Of its own.

    Attributes:
        notes: What was done, afterwards.
    """

    def __init__(self, flink: Flink, query: Query, course: Course, folder: Path) -> None:
        self._flink = flink
        self._query = query
        self._course = course
        self._folder = folder
        self.notes: list[str] = []

    def samples(self) -> Mapping[str, Sample]:
        """Of all figures of the question."""
        query, name, lines = self._query, f"flink_{self._query.name}", self._course.lines(self._query)
        flink = self._flink_with(HEAP)
        files = by_raypipe(query, self._course, self._folder / "files")
        logs = self._logs()
        logged = by_raypipe(query, self._course, self._folder / "logged", logs)
        for log in logs:
            _remove(log)
        limit = lines / flink.cpu_s
        found = {
            name: Sample(value=lines / files.cpu_s, limit=limit),
            f"{name}_log": Sample(value=lines / logged.cpu_s, limit=limit),
            f"{name}_memory": Sample(value=files.peak_mb, limit=flink.peak_mb),
        }
        self.notes.append(
            f"{query.name}, {lines:,} rows: raypipe {_cost(files, lines)}, {_epochs(files)}; with its log"
            f" {_cost(logged, lines)}, {_epochs(logged)}; Flink {_cost(flink, lines)}"
        )
        if query.name in NAMED:
            rocksdb = self._flink_with(ROCKSDB)
            found[f"{name}_rocksdb"] = Sample(value=lines / files.cpu_s, limit=lines / rocksdb.cpu_s)
            self.notes.append(f"{query.name}, Flink with RocksDB: {_cost(rocksdb, lines)}")
        if query.name == CURVE:
            for size, value in self._curve(lines):
                found[f"{name}_epochs_{size}"] = Sample(value=value, limit=limit)
        return found

    def _flink_with(self, backend: str) -> Cost:
        return by_flink(self._flink, self._query, backend, self._course, self._folder / backend)

    def _logs(self) -> tuple[str, str]:
        """Of the small input and of the whole one."""
        self._folder.mkdir(exist_ok=True)
        checked, measured = (
            fill(self._folder / f"{part}.db", inputs, self._query.tables)
            for part, inputs in (("checked", self._course.checked), ("measured", self._course.measured))
        )
        return checked, measured

    def _curve(self, lines: int) -> Iterator[tuple[int, float]]:
        """Changes per CPU-second in the second half of the input, for each size of epoch."""
        for size in SIZES:
            measured = min(size * _CURVE_EPOCHS, _CURVE_LINES, lines // 2)
            folder = self._folder / f"epochs-{size}"
            cost = by_raypipe(
                self._query,
                self._course,
                folder,
                epoch_lines=size,
                lead_lines=lines // 2,
                most_lines=measured,
            )
            yield size, cost.did["lines"] / cost.cpu_s


def _remove(url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    for each in path.parent.glob(f"{path.name}*"):
        with suppress(FileNotFoundError):
            each.unlink()


def _cost(cost: Cost, lines: int) -> str:
    return f"{cost.cpu_s:.1f} CPU-s, {cost.wall_s:.1f} s ({lines / cost.wall_s:,.0f} rows/s), {cost.peak_mb:,.0f} MB"


def _epochs(cost: Cost) -> str:
    return f"{cost.did['epochs']} epochs, the longest {cost.did['longest_s']:.2f} s"
