"""What is asked of a file system itself: why a file cannot be written, and that names in a folder are durable."""

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


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: files that were made, renamed or removed.

    Raises:
        OSError: it cannot be.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
