"""The text of a first pipeline file, with comments that say what may be changed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache

from raypipe.sources import FoundTable
from raypipe.spec.names import NAME_LENGTH, NAME_PATTERN, RESERVED_PREFIXES, RESERVED_SOURCE_NAMES

# In SQL, what is written like this needs no quotes unless it is a keyword.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_YAML_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, kw_only=True)
class Database:
    """The database that a first pipeline file is written for.

    Attributes:
        name: What it is called, without folder or server.
        url: As the file will say it, without any password.
        tables: Of it; at least one can be captured.
    """

    name: str
    url: str
    tables: Sequence[FoundTable]


def draft(database: Database) -> str:
    """The pipeline file for a database."""
    source = _name(database.name, "db", RESERVED_SOURCE_NAMES)
    refused = "".join(f"      # {table.refused}\n" for table in database.tables if table.refused)
    tables = [table for table in database.tables if not table.refused]
    captured = "\n".join(f"      - {_yaml(table.name):<24} # {_key_words(table)}" for table in tables)
    example = next((table for table in tables if table.key), tables[0])
    taken = {source.lower()}
    step = _unique(_name(f"{example.local}_view", "view"), taken)
    sink_names: set[str] = {step.lower()}
    copies = "\n".join(
        f"      {_yaml(_unique(_name(table.local, 'table'), sink_names))}: {{from: {_yaml(f'{source}.{table.local}')}}}"
        for table in tables
    )
    return f"""\
# A raypipe pipeline: changes out of a database, through SQL views, into stores that always equal them.
# Paths are relative to this file (three slashes; four make a path absolute).
# Next: raypipe check, then raypipe run --local --until idle, then raypipe verify, each with the name of this file.

pipeline: {source}

# Between the source and the sinks: made by the first run, trimmed by itself.
log: sqlite:///var/{source}.log.db

sources:
  # Tables are called {source}.<table> below.
  {source}:
    url: {_yaml(database.url)}
    # Passwords stay out of this file: ${{env:NAME}} and ${{file:PATH}} stand for secrets in any URL.
    tables:
{captured}
{refused}
steps:
  # A step is a view: at every moment that a sink shows, it holds what this SQL would return over the source.
  # Add a WHERE: a row that stops matching it is deleted downstream.
  {step}:
    sql: |
      SELECT {_columns(example.columns)}
      FROM {source}.{_sql(example.local)}

sinks:
  warehouse:
    url: duckdb:///var/{source}.duckdb
    # mode: current (the default) holds the rows as they stand; mode: history holds every change as a row.
    tables:
      {step}: {{from: {step}}}
{copies}

# limits: {{epoch_bytes: 256MiB, log_bytes: 4GiB}}   # docs/reference/pipeline-file.md lists all of them
"""


def _columns(columns: Sequence[str]) -> str:
    lines: list[str] = [""]
    for column in columns:
        written = _sql(column)
        if lines[-1] and len(lines[-1]) + len(written) > 90:
            lines[-1] += ","
            lines.append("")
        lines[-1] += f", {written}" if lines[-1] else written
    return "\n        ".join(lines)


def _key_words(table: FoundTable) -> str:
    return f"key: {', '.join(table.key)}" if table.key else "no key: kept as a multiset of rows"


def _name(text: str, otherwise: str, reserved: frozenset[str] = frozenset()) -> str:
    """A name the pipeline file takes, as near to the text as can be."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
    if not re.fullmatch(NAME_PATTERN, name) or name.lower().startswith(RESERVED_PREFIXES) or name.lower() in reserved:
        name = f"{otherwise}_{name}".rstrip("_")
    return name[:NAME_LENGTH]


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate.lower() in taken:
        number += 1
        candidate = f"{name[: NAME_LENGTH - 4]}_{number}"
    taken.add(candidate.lower())
    return candidate


def _yaml(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*(:///[A-Za-z0-9_./-]*)?", text)
    return text if plain and text.lower() not in _YAML_WORDS else json.dumps(text, ensure_ascii=False)


@cache
def _sql_words() -> frozenset[str]:
    """What DuckDB does not take as a name without quotes everywhere."""
    import duckdb

    with closing(duckdb.connect(":memory:")) as connection:
        found = connection.execute(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        ).fetchall()
    return frozenset(word for (word,) in found)


def _sql(name: str) -> str:
    plain = _PLAIN.fullmatch(name) and name.lower() not in _sql_words()
    return name if plain else '"' + name.replace('"', '""') + '"'
