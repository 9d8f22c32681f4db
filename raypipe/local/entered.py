"""Which traces a state folder has had without a break: one that a run leaves out is dropped, whatever notes say."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from raypipe.disks import sync_folder
from raypipe.errors import Unavailable

_FILE = "names.json"


def enter(folder: Path, names: Sequence[str]) -> frozenset[str]:
    """Records, durably, with which traces a store is about to be opened.

    Args:
        folder: Of the pipeline's state; made if it is not there.
        names: All traces.

    Returns:
        Those that the last opening was without: they are empty, though versions may be kept that had them before.

    Raises:
        Unavailable: the folder cannot be written.
    """
    path = folder / _FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = set(json.loads(path.read_text())) if path.exists() else set()
        if not known <= set(names):
            # Before the store is opened: a crash in between must not make a dropped trace look kept. Those that come
            # are recorded by ``entered``, so that a crash before the caller has looked repeats the answer.
            _write(path, sorted(known & set(names)))
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"The state folder {folder} cannot be used ({type(error).__name__}).",
            remedy="Give this user the right to write it, or name another with state: in the pipeline file.",
            cause=error,
        ) from error
    return frozenset(names) - known


def entered(folder: Path, names: Sequence[str]) -> None:
    """Records that the store is open with these traces, and that those that came were dealt with."""
    path = folder / _FILE
    if not path.exists() or json.loads(path.read_text()) != sorted(names):
        _write(path, sorted(names))


def _write(path: Path, names: Sequence[str]) -> None:
    fresh = path.with_suffix(".new")
    with open(fresh, "w") as file:
        json.dump(list(names), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    sync_folder(path.parent)
