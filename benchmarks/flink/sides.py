"""Both sides of the comparison: one question asked of Flink, or of raypipe, over the same files."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.flink.contest import Cost, run
from benchmarks.flink.inputs import CHANGING, TABLES, Inputs
from benchmarks.flink.installation import Flink
from benchmarks.flink.judge import Judge
from benchmarks.flink.queries import Query
from benchmarks.flink.raypipe_worker import Job
from benchmarks.flink.settings import CHECKED, JVM, MEASURED, configuration

WORKER = Path(__file__).with_name("worker.py")
_FLINK_TYPES = {
    "int64": "BIGINT",
    "string": "STRING",
    "timestamp[us]": "TIMESTAMP(3)",
    "decimal128(12, 2)": "DECIMAL(12, 2)",
}
_CHECKPOINT = re.compile(r"Completed checkpoint \d+")


class WrongAnswer(Exception):
    """A side's answer is not what DuckDB says; what it cost means nothing."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What both run over.

    Attributes:
        checked: Small input, whose answers are compared; it also warms the processes up.
        measured: The whole one.
    """

    checked: Inputs
    measured: Inputs

    def lines(self, query: Query) -> int:
        """That are measured."""
        return sum(self.measured.lines[table] for table in query.tables)


def by_flink(flink: Flink, query: Query, backend: str, course: Course, folder: Path) -> Cost:
    """Has Flink answer a question.

    Args:
        flink: The installation.
        query: The question.
        backend: Where its state is.
        course: The inputs.
        folder: Of its own, made.

    Raises:
        WrongAnswer: the answer to the small input is not right.
        RuntimeError: it failed.
    """
    answer = folder / "answer"
    logs = folder / "log"
    logs.mkdir(parents=True)
    files = f"'connector' = 'filesystem', 'path' = '{answer.as_uri()}', 'format' = 'debezium-json'"
    job = {
        "environment": {"FLINK_LOG_DIR": str(logs), "JVM_ARGS": JVM},
        "configuration": dict(configuration(backend, folder / "checkpoints")),
        "sql": query.flink,
        "checked": _part(query, course.checked, files, CHECKED),
        "measured": _part(query, course.measured, "'connector' = 'blackhole'", MEASURED),
    }
    # Its client reads paths of its own from the environment: those of this process mean another Python.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    cost = run([str(flink.python), str(WORKER), str(_written(folder, job))], folder / "errors", environment)
    judge = Judge.of(query, course.checked)
    try:
        _refuse("Flink", query, judge.of_flink(answer, tuple(cost.did["columns"])))
    finally:
        judge.close()
    return Cost(cpu_s=cost.cpu_s, wall_s=cost.wall_s, peak_mb=cost.peak_mb, did={"checkpoints": _checkpoints(logs)})


def by_raypipe(query: Query, course: Course, folder: Path, logs: tuple[str, str] | None = None, **job: int) -> Cost:
    """Has raypipe answer a question.

    Args:
        query: The question.
        course: The inputs.
        folder: Of its own, made.
        logs: See ``Job``.
        job: Others of ``Job``: ``epoch_lines``, ``lead_lines``, ``most_lines``.

    Raises:
        WrongAnswer: the answer to the small input is not right.
        RuntimeError: it failed.
    """
    folder.mkdir(parents=True)
    answer = folder / "answer.parquet"
    whole = Job(
        query=query.name,
        checked=str(course.checked.folder),
        measured=str(course.measured.folder),
        logs=logs,
        state=str(folder / "state"),
        answer=str(answer),
        **job,
    )
    command = [sys.executable, "-m", "benchmarks.flink.raypipe_worker", str(_written(folder, asdict(whole)))]
    cost = run(command, folder / "errors")
    judge = Judge.of(query, course.checked)
    try:
        _refuse("raypipe", query, judge.of_raypipe(answer))
    finally:
        judge.close()
    return cost


def _refuse(side: str, query: Query, difference: str) -> None:
    if difference:
        raise WrongAnswer(f"{side} answers {query.name} wrongly: {difference}")


def _written(folder: Path, job: Mapping[str, object]) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def _part(query: Query, inputs: Inputs, sink: str, settings: Mapping[str, str]) -> dict[str, object]:
    tables = {table: _create(table, inputs, query.events) for table in query.tables}
    return {"tables": tables, "sink": sink, "configuration": dict(settings)}


def _create(table: str, inputs: Inputs, events: bool) -> str:
    schema = TABLES[table]
    columns = [f"{column.name} {_FLINK_TYPES[str(column.type)]}" for column in schema.columns]
    if events:
        columns.append("WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND")
    form = "debezium-json" if table in CHANGING else "csv"
    path = inputs.file(table).parent.as_uri()
    return (
        f"CREATE TEMPORARY TABLE {table} ({', '.join(columns)})"
        f" WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = '{form}')"
    )


def _checkpoints(logs: Path) -> int:
    """That Flink completed, of the checked part and of the measured one."""
    return sum(len(_CHECKPOINT.findall(log.read_text(errors="replace"))) for log in logs.glob("*.log"))
