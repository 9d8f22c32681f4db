"""Makes the sinks of a SQL URL: one unit of commit for each database."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from raypipe.contracts import Sink
from raypipe.errors import Kind, RaypipeError
from raypipe.plan.model import SinkPlan
from raypipe.sinks.sharding import Shard
from raypipe.sinks.sql.sqlite import SqliteDialect
from raypipe.sinks.sql.store import SqlStore
from raypipe.sinks.transactional import TransactionalSink


def open_sql(plan: SinkPlan, pipeline: str) -> list[Sink]:
    """The sinks of one database, or of several that share the rows; nothing is opened yet.

    Args:
        plan: With a URL ``sqlite:///PATH``, or with the option ``urls``: one for each shard, in order.
        pipeline: Whose sink it is.

    Raises:
        RaypipeError: URLs and options do not name databases.
    """
    urls = _urls(plan)
    if len(urls) == 1:
        return [_sink(plan, pipeline, plan.name, urls[0], Shard(index=0, count=1))]
    return [
        _sink(plan, pipeline, f"{plan.name}.{index}", url, Shard(index=index, count=len(urls)))
        for index, url in enumerate(urls)
    ]


def _sink(plan: SinkPlan, pipeline: str, name: str, url: str, shard: Shard) -> Sink:
    store = SqlStore(dialect=SqliteDialect(_path(plan, url)), pipeline=pipeline, sink=name)
    return TransactionalSink(name=name, tables=plan.tables, store=store, shard=shard)


def _urls(plan: SinkPlan) -> list[str]:
    listed = plan.options.get("urls")
    urls = [str(url) for url in listed] if isinstance(listed, list | tuple) and listed else [plan.url]
    if len({_path(plan, url) for url in urls}) < len(urls):
        raise _wrong(plan, "names one database twice among its urls", "Give every shard its own.")
    return urls


def _path(plan: SinkPlan, url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _wrong(plan, "has a url that cannot be read", "Write sqlite:///relative/path.db.") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise _wrong(plan, "names no SQLite file", "Write sqlite:///relative/path.db or sqlite:////absolute/path.db.")
    return parsed.database


def _wrong(plan: SinkPlan, what: str, remedy: str) -> RaypipeError:
    return RaypipeError(f"Sink {plan.name} {what}.", kind=Kind.PIPELINE_FILE, remedy=remedy, sink=plan.name)
