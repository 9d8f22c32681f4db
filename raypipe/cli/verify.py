"""``raypipe verify``: compares every sink with its SQL over the source tables, at one cut."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raypipe.cli.exits import Exit
from raypipe.cli.options import PIPELINE_FILE, File, Json
from raypipe.cli.terminal import aligned, counted, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from raypipe.verify import Report


def verify(
    file: File = PIPELINE_FILE,
    values: Annotated[
        bool, typer.Option("--values", help="Show whole rows in the examples; without, only their keys.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="To wait for the pipeline to reach the cut.")
    ] = 300.0,
    json: Json = False,
) -> None:
    """Prove every sink: compare it with the step's SQL run over the source tables at the sink's cut.

    Works on a running pipeline, which goes on, and on a stopped one, which is first brought up to the present.
    Exits with 1 if anything is missing, extra, different, or in another shard than its key says.
    """
    from raypipe.local.assemble import assemble
    from raypipe.spec import load
    from raypipe.verify import verify as compare_with_oracle

    plan = assemble(load(file))
    with silence() if json else words() as observer:
        report = compare_with_oracle(plan, values=values, observer=observer, timeout_s=timeout)
    if json:
        say(report.to_json())
    else:
        for line in report_lines(report):
            say(line)
    if not report.ok:
        raise typer.Exit(Exit.FAILED)


def words() -> AbstractContextManager[Callable[[str], None]]:
    """An observer that says on the terminal what is being done."""
    return _spinner() if sys.stdout.isatty() else _plain_words()


@contextmanager
def silence() -> Iterator[Callable[[str], None]]:
    """An observer that says nothing."""
    yield lambda _: None


@contextmanager
def _plain_words() -> Iterator[Callable[[str], None]]:
    last = ""

    def tell(words: str) -> None:
        nonlocal last
        # Counts inside the words change all the time; a new line is worth it for a new activity only.
        activity = words.rstrip("0123456789,. rows")
        if activity != last:
            last = activity
            say(words)

    yield tell


@contextmanager
def _spinner() -> Iterator[Callable[[str], None]]:
    from rich.console import Console

    with Console().status("starting") as spinner:
        yield spinner.update


def report_lines(report: Report) -> list[str]:
    """A report for people."""
    lines = aligned(
        [
            ("sink", "table", "rows", "missing", "extra", "different", "misplaced", ""),
            *(
                (
                    table.sink,
                    table.table,
                    f"{table.rows:,}",
                    f"{table.missing:,}",
                    f"{table.extra:,}",
                    f"{table.different:,}",
                    f"{table.misplaced:,}",
                    "right" if table.ok else "WRONG",
                )
                for table in report.tables
            ),
        ],
        indent="",
    )
    for table in report.tables:
        for what, examples in table.examples.items():
            lines += [f"{table.sink}.{table.table} {what}: {_example(example)}" for example in examples]
    lines += [f"{counted(rows, 'row')} of {name} in quarantine" for name, rows in report.parked.items()]
    wrong = [table for table in report.tables if not table.ok]
    verdict = (
        f"{counted(len(wrong), 'table')} of {len(report.tables)} differ from their SQL over the source"
        if wrong
        else f"every sink equals its SQL over the source ({counted(len(report.tables), 'table')})"
    )
    return [*lines, f"{report.pipeline} at cut {report.cut}: {verdict}, checked in {report.seconds:.1f} s."]


def _example(example: Any) -> str:
    from raypipe.verify.strays import FOUND_IN

    key = ", ".join(f"{name}={value!r}" for name, value in example.items() if name != FOUND_IN)
    return f"{key} in {example[FOUND_IN]}" if FOUND_IN in example else key
