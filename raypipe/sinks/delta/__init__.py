"""Delta Lake: one table is one unit of commit, and an epoch is one commit of the table."""

from raypipe.sinks.delta.factory import open_delta

__all__ = ["open_delta"]
