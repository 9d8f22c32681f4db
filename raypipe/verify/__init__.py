"""The oracle, shipped to users: every sink compared with the steps' SQL over the source tables, at one cut."""

from raypipe.verify.report import Report, TableReport
from raypipe.verify.verify import verify

__all__ = ["Report", "TableReport", "verify"]
