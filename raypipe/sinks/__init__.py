"""Stores that changes are written into."""

from raypipe.sinks.factory import open_sinks

__all__ = ["open_sinks"]
