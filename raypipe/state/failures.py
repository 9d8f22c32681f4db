"""Turns what the file system raises into the errors of a store of state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raypipe.disks import Hindrance, hindrance
from raypipe.errors import Unavailable

_REMEDIES = {
    Hindrance.FULL: "Free space there.",
    Hindrance.READ_ONLY: "Make it writable for this user.",
}


@contextmanager
def says_why(folder: Path, doing: str) -> Iterator[None]:
    """Lets an error of the operating system out as one that says which folder and why.

    Raises:
        Unavailable: the file system does not do it now.
    """
    try:
        yield
    except OSError as error:
        found = hindrance(folder / "x")
        why = os.strerror(error.errno) if error.errno is not None else type(error).__name__
        raise Unavailable(
            f"The state in {folder} cannot be {doing}: {why}.",
            remedy=_REMEDIES[found] if found else "",
            cause=error,
            folder=str(folder),
        ) from error
