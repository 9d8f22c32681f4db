"""``raypipe init``: a commented pipeline file from an existing database."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raypipe.cli.options import PIPELINE_FILE
from raypipe.cli.terminal import counted, say


def init(
    database: Annotated[str, typer.Argument(metavar="DATABASE", help="A SQLite file, or its URL (sqlite:///shop.db).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The pipeline file to write; - is stdout.")
    ] = PIPELINE_FILE,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Write a commented pipeline file from an existing database: its tables, an example step, a DuckDB sink."""
    from raypipe.cli.draft import draft, read_tables

    path = Path(database.removeprefix("sqlite:///")) if database.startswith("sqlite:///") else Path(database)
    if "://" in str(database) and not database.startswith("sqlite:///"):
        raise typer.BadParameter("Only SQLite databases can be read so far: a path, or sqlite:///PATH.")
    if not path.is_file():
        raise typer.BadParameter(f"There is no database {path}.")
    if str(output) != "-" and output.exists() and not force:
        raise typer.BadParameter(f"{output} exists already; --force replaces it, --output writes another file.")
    tables = read_tables(path)
    captured = [table for table in tables if not table.refused]
    if not captured:
        raise typer.BadParameter(f"{path} has no table whose changes can be captured.")
    if str(output) == "-":
        sys.stdout.write(draft(path, tables, folder=Path.cwd()))
        return
    output.write_text(draft(path, tables, folder=output.absolute().parent), encoding="utf-8")
    say(f"Wrote {output} with {counted(len(captured), 'table')}. Next: raypipe check {output}")
