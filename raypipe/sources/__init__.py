"""Databases that changes are read from; one package for each kind."""

from raypipe.sources.discover import FoundTable, discover
from raypipe.sources.factory import open_instance, open_source

__all__ = ["FoundTable", "discover", "open_instance", "open_source"]
