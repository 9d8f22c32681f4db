"""The folder of a store: which files there are, who may add the next commit, what may go.

``<sequence>.commit`` is a commit, ``<sequence of the writer's claim>-<writer>-<n>.run`` a run by itself, ``*.tmp`` not
yet anything. A commit takes its name by a hard link, which fails if the name is taken: of two writers that follow the
same commit only one goes on. The newest commit is never removed, so a writer that was paused so long that its name is
free again finds a higher one there.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from raypipe.disks import sync_folder
from raypipe.state.failures import says_why

_COMMIT = re.compile(r"(\d{16})\.commit")
_OWNED = re.compile(r"(\d{16})-([0-9a-f]{8})-\d+\.(?:run|tmp)")


def commit_name(sequence: int) -> str:
    """The file name of a commit."""
    return f"{sequence:016d}.commit"


class Folder:
    """One writer's view of the folder.

    Attributes:
        path: Where it is.
        claim: Sequence of the writer's first commit; names of its files begin with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.claim = 0
        self._writer = secrets.token_hex(4)
        self._made = 0
        with says_why(path, "made"):
            path.mkdir(parents=True, exist_ok=True)

    def newest(self) -> int:
        """Sequence of the newest commit, 0 if there is none."""
        with says_why(self.path, "listed"):
            return max(
                (int(found[1]) for name in os.listdir(self.path) if (found := _COMMIT.fullmatch(name))), default=0
            )

    def fresh(self, suffix: str) -> str:
        """A name that nobody has used."""
        self._made += 1
        return f"{self.claim:016d}-{self._writer}-{self._made}.{suffix}"

    def map(self, name: str) -> pa.Buffer:
        """The content of a file, mapped.

        Raises:
            FileNotFoundError: it is gone.
        """
        with pa.memory_map(str(self.path / name), "r") as file:
            return file.read_buffer()

    def take(self, temporary: str, sequence: int) -> bool:
        """Gives a finished file the name of a commit; False if somebody has made this commit or a later one."""
        with says_why(self.path, "written"):
            try:
                os.link(self.path / temporary, self.path / commit_name(sequence))
            except FileExistsError:
                return False
            os.unlink(self.path / temporary)
        if self.newest() > sequence:
            self.remove([commit_name(sequence)])
            return False
        return True

    def sync(self) -> None:
        """Makes names durable."""
        with says_why(self.path, "written"):
            sync_folder(self.path)

    def remove(self, names: Collection[str]) -> None:
        """Removes files, if they are there."""
        with says_why(self.path, "cleaned"):
            for name in names:
                (self.path / name).unlink(missing_ok=True)

    def left_behind(self, named: Collection[str]) -> list[str]:
        """Files of earlier writers that nobody needs.

        Args:
            named: Files that the newest commit names, and that commit's own.
        """
        with says_why(self.path, "listed"):
            names = os.listdir(self.path)
        return [name for name in names if name not in named and self._is_earlier(name)]

    def _is_earlier(self, name: str) -> bool:
        commit, owned = _COMMIT.fullmatch(name), _OWNED.fullmatch(name)
        if commit:
            return int(commit[1]) < self.claim
        # Others who tried the same claim did not get it.
        return owned is not None and int(owned[1]) <= self.claim and owned[2] != self._writer
