"""SQL databases as sinks; SQLite first."""

from raypipe.sinks.sql.sink import open_sql

__all__ = ["open_sql"]
