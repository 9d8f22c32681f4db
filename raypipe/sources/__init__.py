"""Databases that changes are read from; one package for each kind."""

from raypipe.sources.factory import open_instance, open_source

__all__ = ["open_instance", "open_source"]
