"""The durable store between readers and steps."""

from raypipe.log.opening import open_existing_log, open_log

__all__ = ["open_existing_log", "open_log"]
