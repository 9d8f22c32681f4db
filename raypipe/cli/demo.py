"""``raypipe demo``: a shop in full swing, a pipeline behind it, two actors killed, and the proof at the end."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypipe.cli.exits import Exit
from raypipe.cli.terminal import aligned, counted, say
from raypipe.engine.status import Status
from raypipe.errors import Kind, RaypipeError

if TYPE_CHECKING:
    from raypipe.cli.drill import Drill
    from raypipe.cli.signals import StopSignals
    from raypipe.demo.server import BooksServer
    from raypipe.plan.model import Plan
    from raypipe.spec import Pipeline, Url

EXAMPLE = Path("examples/shop-and-books/pipeline.yaml")

ROWS = 20_000  # a second of loading: long enough to be seen, short enough to wait for
BOOK_ROWS = 8_000
CLERKS = 2
BOOKKEEPERS = 1
RATE = 30.0  # transactions a second of each writer; about four row images each
SINK_TO_KILL = "warehouse"
# The whole demo shall end within 120 s on two cores; what comes before and after the run takes up to 30 s of them.
PATIENCE_S = 80.0
LINE_EVERY_S = 2.0


def demo(
    seconds: Annotated[
        float, typer.Option("--seconds", min=4, max=3600, help="How long the shop stays open once all is loaded.")
    ] = 20.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the shop and of what its writers do.")] = 1,
) -> None:
    """Run an example over two databases on a local Ray, kill two of its actors, and prove every sink right.

    Exits with 0 only if both were killed, came back, and every sink equals its SQL over the source.
    """
    run_demo(seconds=seconds, seed=seed)


def run_demo(*, seconds: float, seed: int) -> None:
    """See ``demo``.

    Raises:
        typer.Exit: the demo failed, or was interrupted.
        RaypipeError: it could not take place.
    """
    from raypipe.cli.signals import StopSignals
    from raypipe.demo.open import servers
    from raypipe.demo.server import BooksServer
    from raypipe.local.assemble import assemble
    from raypipe.spec import load

    began = time.monotonic()
    file = _example_file()
    pipeline = load(file)
    database = _path(pipeline, pipeline.sources["shop"].url)
    folder = database.parent
    announce(f"A shop in {_shown(folder)}: {counted(_open_shop(pipeline, database, seed), 'row')} in five tables.")
    server = BooksServer(servers(folder))
    try:
        announce(
            f"Its books, in a PostgreSQL of their own: {counted(_open_books(server, seed), 'row')} in three tables."
        )
        plan = assemble(pipeline)
        with StopSignals() as signals:
            drill = _run(plan, database, signals, seconds, seed)
            if signals.received is not None:
                raise typer.Exit(Exit(128 + signals.received))
        right = _prove(plan)
    finally:
        server.stop()
    say()
    _tell_where(pipeline)
    say()
    _tell_what_next(file, folder)
    say()
    recovered = drill.recovered
    say(_verdict(recovered=recovered, right=right, took_s=time.monotonic() - began))
    if not (recovered and right):
        raise typer.Exit(Exit.FAILED)


def announce(words: str) -> None:
    """A line that stands out among those of the progress."""
    say(f"==> {words}")


def _example_file() -> Path:
    import raypipe

    file = Path(raypipe.__file__).parents[1] / EXAMPLE
    if not file.exists():
        raise RaypipeError(
            f"The demo runs the example of a source checkout, and there is no {EXAMPLE} beside this installation.",
            kind=Kind.PIPELINE_FILE,
            remedy="Clone the repository and run 'make demo' there.",
        )
    return file


def _path(pipeline: Pipeline, url: Url) -> Path:
    """Where a store that lives in a file or folder lies."""
    from raypipe.spec import resolve_url

    return Path(resolve_url(url, pipeline.folder).partition(":///")[2])


def _open_shop(pipeline: Pipeline, database: Path, seed: int) -> int:
    """Makes the shop anew; returns its rows."""
    from raypipe.cli.status import told
    from raypipe.demo import premises, shop
    from raypipe.local.at_work import at_work

    last = told(pipeline)
    if last is not None and at_work(last):
        raise RaypipeError(
            f"Process {last.pid} on {last.host} is running pipeline {last.pipeline} in {database.parent}.",
            kind=Kind.CONFLICT,
            remedy="End that run first, or name another folder in the environment variable RAYPIPE_SHOP.",
        )
    try:
        premises.clear(database.parent)
    except premises.NotOurs as error:
        raise RaypipeError(
            f"The folder {database.parent} is not empty, and no demo made what is in it.",
            kind=Kind.CONFLICT,
            remedy="Name another folder in the environment variable RAYPIPE_SHOP.",
        ) from error
    return sum(shop.create(database, rows=ROWS, seed=seed).values())


def _open_books(server: BooksServer, seed: int) -> int:
    """Makes the books anew, on their own server; returns their rows."""
    from raypipe.demo import books
    from raypipe.demo.writer import BOOKS

    url = server.start_anew()
    os.environ[BOOKS] = url  # the pipeline file refers to it, and so do the writers
    return sum(books.create(url, rows=BOOK_ROWS, seed=seed).values())


def _run(plan: Plan, database: Path, signals: StopSignals, seconds: float, seed: int) -> Drill:
    """Writers, run and drill, from the first write until every sink has the last one."""
    from actors.processes import process_of
    from actors.run import run_on_ray
    from raypipe.cli import progress
    from raypipe.cli.drill import Drill, of_sink, of_state
    from raypipe.demo.staff import Staff

    with ExitStack() as stack:
        desks = [("--database", str(database))] * CLERKS + [("--books",)] * BOOKKEEPERS
        staff = stack.enter_context(Staff(desks, seed=seed, rate=RATE))
        announce(f"{len(desks)} processes write to them, {RATE * len(desks):.0f} transactions a second.")

        def close_shop() -> None:
            tallies = staff.stop()
            committed = sum(tally["committed"] for tally in tallies)
            undone = sum(tally["rolled_back"] + tally["refused"] for tally in tallies)
            announce(f"The writers are done: {committed:,} transactions committed, {undone:,} rolled back. Draining.")

        announce("The pipeline runs on a Ray of its own, which takes some seconds to start.")
        show = stack.enter_context(progress.for_people(line_every_s=LINE_EVERY_S))
        drill = Drill(
            victims=[of_sink(SINK_TO_KILL), of_state()],
            busy_s=seconds,
            patience_s=seconds + PATIENCE_S,
            process_of=partial(process_of, plan.pipeline),
            close_shop=close_shop,
            stop=signals.stop,
            tell=announce,
        )

        def observe(status: Status) -> None:
            signals.keep()
            show(status)
            if signals.received is None:
                drill(status)

        last = run_on_ray(plan, address="local", until="forever", observer=observe, stop=signals.stop)
    if signals.received is None:
        _tell_state(last)
    return drill


def _tell_state(last: Status) -> None:
    from raypipe.cli.progress import sized
    from raypipe.cli.status import state_parts

    for report in last.stateful:
        total = report.total
        announce(
            f"What joins, aggregates and windows remember, in {_shown(Path(report.folder))}: "
            f"{counted(total.rows, 'row')} in {counted(total.traces, 'trace')}, {sized(report.bytes)}."
        )
        for line in aligned(state_parts(report)):
            say(line)


def _prove(plan: Plan) -> bool:
    from raypipe.cli.verify import report_lines
    from raypipe.verify import verify

    announce("Proof: every sink beside its SQL, run over the tables of both databases.")
    report = verify(plan)
    for line in report_lines(report):
        say(line)
    return report.ok


def _verdict(*, recovered: bool, right: bool, took_s: float) -> str:
    if recovered and right:
        return (
            f"The demo proved itself in {took_s:.0f} s: two actors were killed and came back, and every sink is right."
        )
    reasons = ([] if recovered else ["a killed actor was not seen to come back"]) + (
        [] if right else ["a sink differs from its SQL"]
    )
    return f"The demo FAILED after {took_s:.0f} s: {' and '.join(reasons)}."


def _tell_where(pipeline: Pipeline) -> None:
    say("Where the results are:")
    rows = [
        (name, _shown(_path(pipeline, url)), ", ".join(sink.tables))
        for name, sink in pipeline.sinks.items()
        for url in sink.locations
    ]
    for line in aligned(rows):
        say(line)


def _tell_what_next(file: Path, folder: Path) -> None:
    say("Three things to try next:")
    for reason, command in things_to_try(file, folder):
        say(f"  {reason}")
        say(f"    {command}")


def things_to_try(file: Path, folder: Path) -> list[tuple[str, str]]:
    """Commands for a shell in the present working directory, each with what it is good for."""
    binaries = Path(sys.executable).parent
    raypipe, python = _shown(binaries / "raypipe"), _shown(Path(sys.executable))
    query = "FROM best_sellers ORDER BY day, place"
    warehouse = shlex.quote(_shown(folder / "warehouse.duckdb"))
    pipeline = shlex.quote(_shown(file))
    writer = f"{python} -m raypipe.demo.writer --seed 99 --transactions"
    shop = shlex.quote(_shown(folder / "shop.db"))
    follow = (
        f"{writer} 300 --database {shop} && {writer} 200 --books && "
        f"{raypipe} run {pipeline} --local --until idle && {raypipe} verify {pipeline}"
    )
    with_books = f"{python} -m raypipe.demo.open"
    return [
        (
            "Ask the warehouse, which is an ordinary DuckDB file:",
            f"{python} -c 'import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).sql(sys.argv[2]))' "
            f'{warehouse} "{query}"',
        ),
        (
            "See why each step runs the way it does:",
            f"{with_books} {raypipe} plan {pipeline}",
        ),
        (
            "Write 500 more transactions, let the pipeline follow (kill -9 it if you like), and prove it again:",
            f"{with_books} sh -c {shlex.quote(follow)}",
        ),
    ]


def _shown(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
