"""The commands, and how they end.

Nothing heavy is imported here or at the top of a command's module, so that ``raypipe --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from raypipe import __version__
from raypipe.cli import (
    check,
    demo,
    failures,
    init,
    logs,
    plan,
    repair,
    reshard,
    run,
    schema,
    snapshot,
    source,
    status,
    verify,
)
from raypipe.cli.exits import MEANING, Exit


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"raypipe {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    help="Change data out of SQL databases, through SQL views, into many stores at once: exactly once.",
    epilog="Exit codes: " + " ".join(f"{int(code)}: {meaning}" for code, meaning in MEANING.items()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (init.init, check.check, plan.plan, run.run, status.status, verify.verify, repair.repair)
for command in (*_COMMANDS, reshard.reshard, schema.schema, demo.demo):
    app.command()(command)
app.add_typer(source.app, name="source")
app.add_typer(snapshot.app, name="snapshot")


@app.callback()
def raypipe(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Change data out of SQL databases, through SQL views, into many stores at once: exactly once."""
    del version  # its callback has answered
    logs.begin()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and ends the process with its exit code (see ``raypipe.cli.exits``)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    report = failures.report_json if "--json" in words else failures.report
    try:
        app(words, prog_name="raypipe")
    except Exception as error:
        sys.exit(report(error))
    sys.exit(Exit.OK)
