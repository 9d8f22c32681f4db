"""SQLite as a source: triggers record changes in the writer's own transaction, raypipe reads them in order."""

from raypipe.sources.sqlite.install import install, remove
from raypipe.sources.sqlite.source import SqliteSource

__all__ = ["SqliteSource", "install", "remove"]
