"""DuckDB file as a sink."""

from raypipe.sinks.duckdb.sink import open_duckdb

__all__ = ["open_duckdb"]
