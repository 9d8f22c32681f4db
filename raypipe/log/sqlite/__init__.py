"""The embedded log: one SQLite file in WAL mode."""

from raypipe.log.sqlite.log import SqliteLog

__all__ = ["SqliteLog"]
