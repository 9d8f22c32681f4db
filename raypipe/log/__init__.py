"""The durable store between readers and steps."""

from raypipe.log.opening import log_exists, open_existing_log, open_log, require_log

__all__ = ["log_exists", "open_existing_log", "open_log", "require_log"]
