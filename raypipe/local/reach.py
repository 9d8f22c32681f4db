"""Whether the log and the sinks of a plan could be written, found out without changing anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raypipe.errors import RaypipeError
from raypipe.log import require_log
from raypipe.plan.model import Plan
from raypipe.spec import Pipeline, Problem
from raypipe.spec.problems import DocumentPath
from raypipe.spec.url import FILE_SCHEMES

# These keep a store in a folder, the others in a file.
_FOLDER_SCHEMES = ("delta",)


def unreachable(pipeline: Pipeline, plan: Plan) -> list[Problem]:
    """One problem for each place that cannot be written; sinks that are not files are not looked at.

    Args:
        pipeline: As the file says it, for locations.
        plan: Of it, with the URLs resolved.
    """
    found = [(path, _hindrance(url)) for path, url in _places(plan)]
    found.append((("log",), _log_hindrance(plan)))
    return [
        Problem(sentence=sentence, path=path, location=pipeline.location_of(*path))
        for path, sentence in found
        if sentence
    ]


def _log_hindrance(plan: Plan) -> str:
    """Why a log that is a server could not be used."""
    tables = [schema.table for instance in plan.instances for schema in instance.tables]
    try:
        require_log(plan.log, pipeline=plan.pipeline, tables=tables)
    except RaypipeError as error:
        return str(error)
    return ""


def _places(plan: Plan) -> Iterator[tuple[DocumentPath, str]]:
    yield ("log",), plan.log
    for sink in plan.sinks:
        shards = sink.options.get("urls")
        if isinstance(shards, tuple):
            for number, url in enumerate(shards):
                yield ("sinks", sink.name, "urls", number), url
        else:
            yield ("sinks", sink.name, "url"), sink.url


def _hindrance(url: str) -> str:
    """Why a store could not be written there; empty if nothing is in the way."""
    scheme, _, rest = url.partition("://")
    store = scheme.partition("+")[0]
    if store not in FILE_SCHEMES:
        return ""
    path = Path(rest.partition("?")[0].removeprefix("/"))
    if path.exists():
        if path.is_dir() is not (store in _FOLDER_SCHEMES):
            return f"{path} is a {'folder' if path.is_dir() else 'file'}, which {store} cannot be."
        return "" if os.access(path, os.R_OK | os.W_OK) else f"{path} cannot be written with this user's rights."
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        return f"{above} is a file, so nothing can be made below it."
    return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} cannot be written with this user's rights."
