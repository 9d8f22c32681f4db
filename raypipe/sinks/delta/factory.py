"""Makes the sinks of a ``delta:`` URL, one for each of its tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from raypipe.contracts import Sink
from raypipe.errors import Kind, MissingExtra, RaypipeError
from raypipe.plan.model import SinkPlan

if TYPE_CHECKING:
    from raypipe.sinks.delta.sink import DeltaSink

_SCHEME = "delta:///"


def open_delta(plan: SinkPlan, pipeline: str) -> list[Sink]:
    """One sink for each table of the plan, named ``<sink>.<table>``; nothing is read or written yet.

    Args:
        plan: Its URL is ``delta:///folder`` (four slashes for an absolute path): the folder that holds one Delta table
            for each table of the sink.
        pipeline: That the tables will belong to.

    Raises:
        MissingExtra: the Delta library is not installed.
        RaypipeError: of kind ``pipeline_file``; the URL has no path.
    """
    try:
        from raypipe.sinks.delta.sink import DeltaSink
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "deltalake":
            raise
        raise MissingExtra.of("delta", f"Sink {plan.name} (Delta Lake)") from None
    folder = _folder(plan)
    sinks: list[DeltaSink] = [
        DeltaSink(sink=plan.name, pipeline=pipeline, path=folder / table.name, table=table) for table in plan.tables
    ]
    return list(sinks)


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
