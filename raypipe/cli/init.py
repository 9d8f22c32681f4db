"""``raypipe init``: a commented pipeline file from an existing database."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit, urlunsplit

import typer

from raypipe.cli.options import PIPELINE_FILE
from raypipe.cli.terminal import counted, say

if TYPE_CHECKING:
    from raypipe.cli.draft import Database

# What stands in the written file for a password given on the command line.
PASSWORD = "${env:PGPASSWORD}"


def init(
    database: Annotated[
        str,
        typer.Argument(
            metavar="DATABASE",
            help="A SQLite file, its URL (sqlite:///shop.db), or postgresql://user:password@host:5432/shop.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The pipeline file to write; - is stdout.")
    ] = PIPELINE_FILE,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Write a commented pipeline file from an existing database: its tables, an example step, a DuckDB sink.

    A password given here is not written into the file, which refers to the environment variable PGPASSWORD instead.
    """
    from raypipe.cli.draft import draft

    to_stdout = str(output) == "-"
    if not to_stdout and output.exists() and not force:
        raise typer.BadParameter(f"{output} exists already; --force replaces it, --output writes another file.")
    found = _database(database, Path.cwd() if to_stdout else output.absolute().parent)
    captured = [table for table in found.tables if not table.refused]
    if not captured:
        raise typer.BadParameter(f"{found.name} has no table whose changes can be captured.")
    if to_stdout:
        sys.stdout.write(draft(found))
        return
    output.write_text(draft(found), encoding="utf-8")
    say(f"Wrote {output} with {counted(len(captured), 'table')}. Next: raypipe check {output}")


def _database(written: str, folder: Path) -> Database:
    """Looks at the database; ``folder`` is where the file will lie, from which its paths are relative."""
    scheme = written.partition("://")[0] if "://" in written else "sqlite"
    if scheme == "sqlite":
        return _sqlite(Path(written.removeprefix("sqlite:///")), folder)
    if scheme == "postgresql":
        return _postgres(written)
    raise typer.BadParameter("Databases that can be read: a SQLite file, sqlite:///PATH, or postgresql://….")


def _sqlite(path: Path, folder: Path) -> Database:
    from raypipe.cli.draft import Database
    from raypipe.sources import discover

    if not path.is_file():
        raise typer.BadParameter(f"There is no database {path}.")
    tables = discover(f"sqlite:///{path.absolute()}")
    return Database(name=path.stem, url=f"sqlite:///{os.path.relpath(path.absolute(), folder)}", tables=tables)


def _postgres(url: str) -> Database:
    from raypipe.cli.draft import Database
    from raypipe.sources import discover

    parts = urlsplit(url)
    before, at, server = parts.netloc.rpartition("@")
    user, colon, _ = before.partition(":")
    shown = parts._replace(netloc=f"{user}{colon}{PASSWORD if colon else ''}{at}{server}")
    return Database(name=parts.path.strip("/") or "db", url=urlunsplit(shown), tables=discover(url))
