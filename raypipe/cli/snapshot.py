"""``raypipe snapshot``: has tables of a pipeline at work loaded again, lets loads rest, and says how far they are."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from raypipe.cli.options import PIPELINE_FILE, File
from raypipe.cli.status import told
from raypipe.cli.terminal import counted, say

if TYPE_CHECKING:
    from raypipe.contracts import Log
    from raypipe.spec import Pipeline

app = typer.Typer(help="Load tables again beside the stream, pause and resume loads.", no_args_is_help=True)

Tables = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="SOURCE.TABLE", help="Only this table (may be repeated); without, all of them."),
]


@app.command()
def start(
    file: File = PIPELINE_FILE,
    table: Tables = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Read again only the rows of one --table that meet this condition, in the database's own SQL. "
            "Rows that are gone from the source stay where they are: `raypipe repair` finds those.",
        ),
    ] = None,
) -> None:
    """Load tables again from the start. A pipeline that is not at work begins when it runs."""
    from raypipe.engine.snapshots import ask_for
    from raypipe.spec import load

    pipeline = load(file)
    chosen = _chosen(pipeline, table or [])
    if where is not None:
        _start_part(pipeline, table or [], where)
        return
    with closing(_log(pipeline)) as log:
        for instance, tables in chosen.items():
            ask_for(log, instance, tables)
    for instance, tables in chosen.items():
        say(f"{instance}: {counted(len(tables), 'table')} will be loaded again.")


@app.command()
def pause(file: File = PIPELINE_FILE) -> None:
    """Let loads rest; changes go on arriving. Sources that cannot rest finish their loads."""
    from raypipe.engine.snapshots import pause as pause_loads
    from raypipe.spec import load

    pipeline = load(file)
    with closing(_log(pipeline)) as log:
        for instance in pipeline.sources:
            pause_loads(log, instance)
    say("Loads rest until 'raypipe snapshot resume'.")


@app.command()
def resume(file: File = PIPELINE_FILE) -> None:
    """Let loads that rest go on from where they were."""
    from raypipe.engine.snapshots import resume as resume_loads
    from raypipe.spec import load

    pipeline = load(file)
    with closing(_log(pipeline)) as log:
        for instance in pipeline.sources:
            resume_loads(log, instance)
    say("Loads go on.")


@app.command()
def status(file: File = PIPELINE_FILE) -> None:
    """Show what is being loaded, how far it is, and what is still wanted."""
    from raypipe.engine.snapshots import asked_again, read_request
    from raypipe.spec import load

    pipeline = load(file)
    last = told(pipeline)
    with closing(_log(pipeline)) as log:
        wanted = {instance: read_request(log, instance) for instance in pipeline.sources}
        parts = {name: sorted({each.table for each in asked_again(log, name)}) for name in pipeline.sources}
        cut = log.last_cut()
    shares = {table: share for each in (last.instances if last else ()) for table, share in each.loading.items()}
    loading = sorted({*shares, *(cut.loading if cut is not None else ())})
    for table in loading:
        say(f"{table}: {shares.get(table, 0.0):.0%} loaded")
    for instance, request in wanted.items():
        for table in request.tables:
            say(f"{table}: waits to be loaded again")
        for table in parts[instance]:
            say(f"{table}: a part of it waits to be read again")
        if request.paused:
            say(f"{instance}: loads rest")
    if not loading and not any(request.tables for request in wanted.values()) and not any(parts.values()):
        say("Every table is loaded." if cut is not None else "Nothing was loaded yet.")


def _start_part(pipeline: Pipeline, tables: list[str], where: str) -> None:
    from raypipe.contracts import CanReadAgain, ReadAgain
    from raypipe.engine.snapshots import ask_again, new_wish_ids
    from raypipe.local.assemble import assemble
    from raypipe.plan.replacing import require_replaceable
    from raypipe.sources import open_instance

    if len(tables) != 1 or not where.strip():
        raise typer.BadParameter("--where is a condition on the rows of one table: name it with --table.")
    ((instance, (table,)),) = _chosen(pipeline, tables).items()
    plan = assemble(pipeline)
    source = open_instance(plan, instance)
    if not isinstance(source, CanReadAgain):
        raise typer.BadParameter(f"Source {instance} is loaded as a whole or not at all: leave --where out.")
    require_replaceable(plan, table)
    source.check_condition(table, where)
    with closing(_log(pipeline)) as log:
        ask_again(log, instance, ReadAgain(id=next(new_wish_ids()), table=table, where=where))
    say(f"{table}: rows that meet the condition will be read again.")


def _log(pipeline: Pipeline) -> Log:
    from raypipe.log import open_log
    from raypipe.spec import resolve_url

    return open_log(resolve_url(pipeline.log, pipeline.folder), pipeline=pipeline.pipeline)


def _chosen(pipeline: Pipeline, tables: list[str]) -> dict[str, list[str]]:
    """Relations by instance; all if none is named."""
    known = {
        f"{name}.{table.rpartition('.')[2]}": name
        for name, source in pipeline.sources.items()
        for table in source.tables
    }
    unknown = [table for table in tables if table not in known]
    if unknown:
        raise typer.BadParameter(f"There is no table {unknown[0]}; there are: {', '.join(known)}.")
    chosen: dict[str, list[str]] = {}
    for table in tables or known:
        chosen.setdefault(known[table], []).append(table)
    return chosen
