"""``raypipe source``: puts the capture into a source database, and takes every trace of it out."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from raypipe.cli.options import PIPELINE_FILE, File
from raypipe.cli.terminal import counted, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raypipe.contracts import Source
    from raypipe.spec import Pipeline

app = typer.Typer(help="Put the capture into a source database, or take it out.", no_args_is_help=True)

Name = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="Only this source of the file; without, all of them.")
]


@app.command()
def install(file: File = PIPELINE_FILE, source: Name = None) -> None:
    """Begin to capture changes: put into the source what that needs. `run` does it by itself."""
    from raypipe.spec import load

    pipeline = load(file)
    for name, opened in _chosen(pipeline, source):
        with closing(opened):
            opened.install()
        tables = pipeline.sources[name].tables
        say(f"{name}: changes of {counted(len(tables), 'table')} are captured from now on.")


@app.command()
def remove(file: File = PIPELINE_FILE, source: Name = None) -> None:
    """Take every trace of the capture out of the source. The pipeline then has to load its tables again."""
    from raypipe.spec import load

    for name, opened in _chosen(load(file), source):
        with closing(opened):
            opened.remove()
        say(f"{name}: no trace of the capture is left.")


def _chosen(pipeline: Pipeline, only: str | None) -> Iterator[tuple[str, Source]]:
    from raypipe.sources import open_source
    from raypipe.spec import resolve_url

    if only is not None and only not in pipeline.sources:
        raise typer.BadParameter(f"There is no source {only}; there are: {', '.join(pipeline.sources)}.")
    for name, source in pipeline.sources.items():
        if only in (None, name):
            url = resolve_url(source.url, pipeline.folder)
            yield name, open_source(name, url, source.tables, pipeline=pipeline.pipeline)
