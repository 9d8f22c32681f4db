"""Makes the sink of a ``duckdb://`` URL: one unit of commit, the file."""

from __future__ import annotations

from raypipe.contracts import Sink
from raypipe.errors import Kind, RaypipeError
from raypipe.plan.model import SinkPlan
from raypipe.sinks.duckdb.store import DuckDbStore
from raypipe.sinks.transactional import TransactionalSink


def open_duckdb(plan: SinkPlan, pipeline: str) -> list[Sink]:
    """The sink of a DuckDB file; nothing is opened yet.

    Args:
        plan: With a URL ``duckdb:///PATH``.
        pipeline: Whose sink it is.

    Raises:
        RaypipeError: the URL names no file.
    """
    path = plan.url.removeprefix("duckdb://").removeprefix("/")
    if not path or path == ":memory:":
        raise RaypipeError(
            f"Sink {plan.name} names no DuckDB file.",
            kind=Kind.PIPELINE_FILE,
            remedy="Write duckdb:///relative/path.duckdb or duckdb:////absolute/path.duckdb.",
        )
    store = DuckDbStore(path=path, pipeline=pipeline, sink=plan.name)
    return [TransactionalSink(name=plan.name, tables=plan.tables, store=store)]
