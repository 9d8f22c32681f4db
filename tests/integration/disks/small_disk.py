"""A small file system in memory, which only root may mount."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

SIZE = "16m"


class Disk:
    """A mounted file system of a few MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leaves not one byte."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (1 << 16, 1):
                with suppress(OSError):
                    while ballast.write(bytes(size)):
                        pass
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (self.path / "one more").write_bytes(b"x" * 4096)
        (self.path / "one more").unlink(missing_ok=True)

    def free(self) -> None:
        """Takes back what ``fill`` took."""
        self._ballast.unlink()

    def make_read_only(self) -> None:
        """Whoever has a file open for writing keeps this from happening."""
        mount("-o", "remount,ro", str(self.path))

    def make_writable(self) -> None:
        mount("-o", "remount,rw", str(self.path))


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"mount ended with {done.returncode}")
