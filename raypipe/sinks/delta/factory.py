"""Makes the sinks of a ``delta:`` URL, one for each of its tables."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from raypipe.contracts import Sink
from raypipe.errors import Kind, RaypipeError
from raypipe.plan.model import SinkPlan
from raypipe.sinks.delta.sink import DeltaSink

_SCHEME = "delta:///"


def open_delta(plan: SinkPlan, pipeline: str) -> list[Sink]:
    """One sink for each table of the plan, named ``<sink>.<table>``; nothing is read or written yet.

    Args:
        plan: Its URL is ``delta:///folder`` (four slashes for an absolute path): the folder that holds one Delta table
            for each table of the sink.
        pipeline: That the tables will belong to.

    Raises:
        RaypipeError: of kind ``pipeline_file``; the URL has no path.
    """
    folder = _folder(plan)
    return [
        DeltaSink(sink=plan.name, pipeline=pipeline, path=folder / table.name, table=table) for table in plan.tables
    ]


def _folder(plan: SinkPlan) -> Path:
    path = unquote(plan.url.removeprefix(_SCHEME).partition("?")[0])
    if not plan.url.startswith(_SCHEME) or not path.strip("/"):
        raise RaypipeError(
            f"The URL of sink {plan.name} has no folder.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write delta:///folder, or delta:////absolute/folder.",
            sink=plan.name,
        )
    return Path(path).absolute()
