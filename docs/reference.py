"""Writes docs/reference/cli.md and docs/reference/pipeline-file.md from the code; ``--check`` only compares.

A test runs it with ``--check``, so that the reference is never older than the code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

from raypipe.cli.app import app
from raypipe.cli.exits import BY_KIND, MEANING
from raypipe.spec import Limits, Pipeline, Sink, SinkTable, Source, Step
from raypipe.spec.editor import json_schema
from raypipe.spec.relations import LOG_SCHEMES, SINK_SCHEMES, SOURCE_SCHEMES

FOLDER = Path(__file__).parent / "reference"
WRITTEN_BY = "<!-- Written by docs/reference.py; change the code, not this file. -->"

EXAMPLE = """\
pipeline: shop
log: sqlite:///var/log.db
sources:
  shop: {url: "sqlite:///shop.db", tables: [customers, orders, order_items]}
steps:
  paid_orders:
    sql: |
      SELECT order_id, customer_id, amount, placed_at::DATE AS day
      FROM shop.orders WHERE status = 'paid'
sinks:
  lake:
    url: "delta:///var/lake"
    tables:
      orders_history: {from: shop.orders, mode: history}
      paid_orders:    {from: paid_orders, mode: current, partition_by: [day]}
  warehouse:
    url: "duckdb:///var/warehouse.duckdb"
    tables: {paid_orders: {from: paid_orders}}
"""


def main() -> None:
    """Writes the pages, or compares them."""
    pages = {"cli.md": "\n".join(cli_page()) + "\n", "pipeline-file.md": "\n".join(file_page()) + "\n"}
    stale = [name for name, text in pages.items() if not _same(FOLDER / name, text)]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"{', '.join(stale)} in {FOLDER} is older than the code: run python docs/reference.py")
        return
    for name in stale:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / name).write_text(pages[name], encoding="utf-8")


def cli_page() -> Iterator[str]:
    """The commands, their options, and the exit codes."""
    yield from (WRITTEN_BY, "# Commands", "")
    yield "`raypipe` and `python -m raypipe` are the same. Where a command takes a pipeline file, the default is"
    yield "`pipeline.yaml` in the working directory."
    commands: dict[str, Any] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        commands |= {f"{name} {inner}": each for inner, each in below.items()} if below else {name: command}
    for name, command in commands.items():
        yield from ("", f"## raypipe {name}", "", *_paragraphs(command.help))
        rows = [row for parameter in command.params if (row := _parameter(parameter)) is not None]
        if rows:
            yield from ("", "| argument or option | meaning | default |", "|---|---|---|", *rows)
    yield from ("", "## Exit codes", "", "| code | meaning | errors of kind |", "|---|---|---|")
    for code, meaning in MEANING.items():
        kinds = ", ".join(f"`{kind.value}`" for kind, exit_code in BY_KIND.items() if exit_code is code)
        yield f"| {int(code)} | {meaning} | {kinds} |"
    yield from ("", "## JSON", "")
    yield "With `--json` a command prints one JSON object on stdout (`run` one a line, about twice a second); `ok` says"
    yield "whether all is well. A failure is an object too, with `ok: false`, `exit_code`, `error` (`kind`, `message`,"
    yield "`remedy`, `fields`) and, when the pipeline file is wrong, `problems` (`file`, `line`, `column`, `path`,"
    yield "`sentence`, `did_you_mean`)."
    yield from ("", "## Environment", "", "| variable | meaning |", "|---|---|")
    yield "| `RAYPIPE_DEBUG=1` | Print the traceback of an error too. |"
    yield "| `RAYPIPE_LOG=info` | Log events on stderr from this level on: `debug`, `info`, `warning` (the default). |"


def _paragraphs(text: str) -> Iterator[str]:
    yield from (line.strip() for line in text.strip().splitlines())


def _parameter(parameter: Any) -> str | None:
    if parameter.name == "help":
        return None
    flag = bool(getattr(parameter, "is_flag", False))
    words = parameter.opts if parameter.param_type_name == "option" else []
    name = ", ".join(words) if words else str(parameter.metavar or parameter.name)
    if words and not flag:
        name += f" {parameter.metavar or parameter.name.upper()}"
    default = parameter.default
    shown = "" if flag or default is None or parameter.required else f"`{default}`"
    cells = (f"`{name}`", parameter.help, shown)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def file_page() -> Iterator[str]:
    """The sections and keys of the pipeline file."""
    yield from (WRITTEN_BY, "# The pipeline file", "", "```yaml", *EXAMPLE.splitlines(), "```", "")
    yield "`raypipe check` tells everything that is wrong with a file at once, each problem with file, line, column,"
    yield "path in the document and the nearest valid choice. `raypipe schema` prints its JSON Schema; an editor that"
    yield "speaks YAML's language server takes it from a first line such as"
    yield "`# yaml-language-server: $schema=pipeline.schema.json`. The same models are the Python API:"
    yield "`raypipe.spec.load` reads a file, `raypipe.spec.Pipeline(...)` says the same in Python (`from` is `from_`)."
    definitions = {"": json_schema(), **json_schema()["$defs"]}
    sections: list[tuple[str, str, type[BaseModel]]] = [
        ("The document", "", Pipeline),
        ("sources.&lt;name&gt;", "Source", Source),
        ("steps.&lt;name&gt;", "Step", Step),
        ("sinks.&lt;name&gt;", "Sink", Sink),
        ("sinks.&lt;name&gt;.tables.&lt;name&gt;", "SinkTable", SinkTable),
        ("limits", "Limits", Limits),
    ]
    for title, definition, model in sections:
        yield from ("", f"## {title}", "")
        if definition:
            yield from (" ".join(definitions[definition]["description"].split()), "")
        yield from ("| key | meaning | default |", "|---|---|---|")
        for name, field in model.model_fields.items():
            # A bar would end the cell, in code too.
            meaning = str(field.description).replace("|", "\\|")
            yield f"| `{field.validation_alias or name}` | {meaning} | {_default(field)} |"
    yield from ("", "Bytes are numbers, or text with a unit: `64MiB`, `2GB`.", "", "## Names", "")
    yield "Names that the file gives (pipeline, sources, steps, sinks, tables of sinks) are letters, digits and"
    yield "underscores, begin with a letter and have at most 63 characters; `raypipe_` and `_raypipe_` are reserved."
    yield "Tables and columns of a source are spelled as the database spells them, whatever characters they hold."
    yield from ("", "## URLs and paths", "", "| of | schemes |", "|---|---|")
    for what, schemes in (("log", LOG_SCHEMES), ("sources", SOURCE_SCHEMES), ("sinks", SINK_SCHEMES)):
        yield f"| {what} | {', '.join(f'`{scheme}`' for scheme in schemes)} |"
    yield from (
        "",
        "Three slashes make a path relative to the folder of the pipeline file (`sqlite:///shop.db`), four make",
    )
    yield "it absolute (`sqlite:////data/shop.db`), as in SQLAlchemy's URLs. A path is plain text: nothing in it is"
    yield "percent-encoded, and `?` ends it."
    yield from ("", "## Secrets", "")
    yield "In any URL, `${env:NAME}` stands for an environment variable and `${file:PATH}` for the contents of a file"
    yield "(relative to the pipeline file, without the newline at its end). They are looked up when the plan is made."
    yield "Before the `@` of a URL their values are percent-encoded, so any password works there, one reference for the"
    yield "user and one for the password; elsewhere they stand as they are, and a whole URL may be a reference."
    yield "`${env:NAME:-default}` has a value for when the variable is unset or empty, as in a shell: one file can"
    yield "serve two places, as the shop example does with `${env:RAYPIPE_SHOP:-var}`."
    yield "raypipe prints references as written and the password of any URL as `***`."
    yield from ("", "## Several databases for one sink", "")
    yield "`urls` spreads the rows of a sink over SQL databases by a hash of their key. It is a list rather than a"
    yield "pattern with a number of shards because databases on several hosts rarely differ by a number only, and"
    yield "because a list shows that the order matters: a database's place in it is the number of its shard."


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default in (None, (), {}) or isinstance(default, BaseModel):
        return ""
    if isinstance(default, int) and default >= 1 << 20 and not default % (1 << 20):
        return f"`{default >> 30}GiB`" if not default % (1 << 30) else f"`{default >> 20}MiB`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
