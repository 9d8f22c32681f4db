"""Makes the sinks of a ``delta:`` URL, one for each of its tables."""

from __future__ import annotations

from pathlib import Path

from raypipe.contracts import Sink
from raypipe.errors import Kind, RaypipeError
from raypipe.plan.model import SinkPlan
from raypipe.sinks.delta.sink import DeltaSink

_SCHEME = "delta:///"
# The library takes a path for a piece of a URL and decodes it twice, or panics.
_UNUSABLE = frozenset("%[]\\")


def open_delta(plan: SinkPlan, pipeline: str) -> list[Sink]:
    """One sink for each table of the plan, named ``<sink>.<table>``; nothing is read or written yet.

    Args:
        plan: Its URL is ``delta:///folder`` (four slashes for an absolute path): the folder that holds one Delta table
            for each table of the sink.
        pipeline: That the tables will belong to.

    Raises:
        RaypipeError: of kind ``pipeline_file``; the URL has no folder, or one with an unusable name.
    """
    folder = _folder(plan)
    return [
        DeltaSink(sink=plan.name, pipeline=pipeline, path=folder / table.name, table=table) for table in plan.tables
    ]


def _folder(plan: SinkPlan) -> Path:
    path = Path(plan.url.removeprefix(_SCHEME))
    if not plan.url.startswith(_SCHEME) or not path.name:
        raise RaypipeError(
            f"The URL of sink {plan.name} has no folder.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write delta:///folder, or delta:////absolute/folder.",
            sink=plan.name,
        )
    if _UNUSABLE & set(str(path)):
        raise RaypipeError(
            f"The folder of sink {plan.name} has a character in its path that the Delta library cannot handle.",
            kind=Kind.PIPELINE_FILE,
            remedy=f"Name a folder without any of: {' '.join(sorted(_UNUSABLE))}",
            sink=plan.name,
        )
    return path.absolute()
