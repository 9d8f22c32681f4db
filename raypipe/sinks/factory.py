"""From a planned sink to its units of commit: a table of URL schemes, each adapter imported only when it is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raypipe.contracts import Sink
from raypipe.errors import Kind, MissingExtra, RaypipeError
from raypipe.plan.model import SinkPlan


def open_sinks(plan: SinkPlan, pipeline: str) -> list[Sink]:
    """The units of commit of a sink; made, not opened: they touch nothing yet.

    Args:
        plan: Of the sink.
        pipeline: Whose sink it is.

    Raises:
        RaypipeError: no adapter knows the URL's scheme, or the adapter finds the URL wrong.
        MissingExtra: the adapter needs a dependency that is not installed.
    """
    urls = plan.options.get("urls")
    first = str(urls[0]) if isinstance(urls, list | tuple) and urls else plan.url
    scheme = first.partition("://")[0].partition("+")[0]
    adapter = _ADAPTERS.get(scheme)
    if adapter is None:
        raise RaypipeError(
            f"Sink {plan.name} has a URL of a scheme that no sink knows.",  # the scheme may be half a secret
            kind=Kind.PIPELINE_FILE,
            remedy=f"Known schemes: {', '.join(sorted(_ADAPTERS))}.",
            sink=plan.name,
        )
    return adapter(plan, pipeline)


def _duckdb(plan: SinkPlan, pipeline: str) -> list[Sink]:
    from raypipe.sinks.duckdb import open_duckdb

    return open_duckdb(plan, pipeline)


def _sql(plan: SinkPlan, pipeline: str) -> list[Sink]:
    from raypipe.sinks.sql import open_sql

    return open_sql(plan, pipeline)


def _delta(plan: SinkPlan, pipeline: str) -> list[Sink]:
    try:
        from raypipe.sinks.delta import open_delta
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "deltalake":
            raise
        raise MissingExtra.of("delta", f"Sink {plan.name} (Delta Lake)") from None
    return open_delta(plan, pipeline)


_ADAPTERS: Mapping[str, Callable[[SinkPlan, str], list[Sink]]] = {"delta": _delta, "duckdb": _duckdb, "sqlite": _sql}
