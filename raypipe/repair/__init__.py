"""Repair: finds out by checksums which rows of the sinks differ from the source, and has only those read again."""

from raypipe.repair.repair import repair
from raypipe.repair.report import Report, TableReport

__all__ = ["Report", "TableReport", "repair"]
