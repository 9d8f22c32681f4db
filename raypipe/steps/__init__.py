"""Steps at work: a plan's SQL run over batches of changes."""

from raypipe.steps.flow import Flow
from raypipe.steps.sql import SqlStep

__all__ = ["Flow", "SqlStep"]
