"""Log lines on stderr: one event a line, names and counts behind it."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

LEVEL_VARIABLE = "RAYPIPE_LOG"

# What every record has; whatever else it has was given as ``extra``.
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """``2026-01-31T12:00:00 INFO raypipe.local: tables will be loaded again tables=['shop.orders']``."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The event and its fields; Ray puts one of its own into every record, with an underscore before its name."""
        given = {name: value for name, value in vars(record).items() if name not in _ORDINARY and name[0] != "_"}
        fields = "".join(f" {name}={value}" for name, value in given.items())
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {record.message}{fields}"


class _PresentStderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at that moment: a live display puts its own in place."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass


def begin() -> None:
    """Sends the events of raypipe to stderr, from the level that the environment names (warnings if it names none)."""
    level = os.environ.get(LEVEL_VARIABLE, "warning").upper()
    logger = logging.getLogger("raypipe")
    logger.setLevel(level if level in logging.getLevelNamesMapping() else logging.WARNING)
    if not any(isinstance(handler, _PresentStderr) for handler in logger.handlers):
        handler = _PresentStderr()
        handler.setFormatter(EventFormatter())
        logger.addHandler(handler)
