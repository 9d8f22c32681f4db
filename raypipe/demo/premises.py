"""Where the demo takes place: a folder of its own, cleared of an earlier demo and of nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

# Written into the folder first, so that the next demo knows that it may clear what lies beside it.
MARK = ".made-by-raypipe-demo"
# What the shop and its pipeline make; the stars are for what a store keeps beside its file (-wal, -shm, .wal).
MADE = ("shop.db*", "log.db*", "warehouse.duckdb*", "shard-*.db*", "lake", "state")


class NotOurs(FileExistsError):
    """The folder holds what no demo made."""


def clear(folder: Path) -> None:
    """Makes the folder, or empties it of what an earlier demo made there.

    Raises:
        NotOurs: it holds something, and no demo has ever marked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / MARK
    if not mark.exists() and any(folder.iterdir()):
        raise NotOurs(f"{folder} is not empty")
    mark.touch()
    for pattern in MADE:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
