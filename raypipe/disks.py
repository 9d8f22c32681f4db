"""Why a file cannot be written, asked of its file system: a database often says no more than that it failed."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

# SQLite makes the index of a write-ahead log in steps of 32 KiB, so with less than two of them free nothing goes.
ROOM_BYTES = 65_536


class Hindrance(Enum):
    """What is wrong with a file system."""

    FULL = "full"
    READ_ONLY = "read-only"


def hindrance(path: str | Path) -> Hindrance | None:
    """What keeps a file, which need not exist, from being written or from growing; None if nothing is seen."""
    try:
        found = os.statvfs(Path(path).parent)
    except OSError:
        return None
    if found.f_flag & os.ST_RDONLY:
        return Hindrance.READ_ONLY
    return Hindrance.FULL if found.f_bavail * found.f_frsize < ROOM_BYTES else None
