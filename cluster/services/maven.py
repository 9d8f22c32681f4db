"""Jars from Maven Central: what a pom names, copied into a folder that is named by the pom's contents."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.services.process import ServiceError, run_to_end


@dataclass(frozen=True, kw_only=True)
class Jars:
    """A set of jars.

    Attributes:
        what: They are, in messages.
        pom: Names them.
        beside: Files that are copied beside them.
    """

    what: str
    pom: Path
    beside: Sequence[Path] = ()

    def folder(self, under: Path) -> Path:
        """Where they are or will be: a changed pom is a new folder."""
        content = b"".join(path.read_bytes() for path in (self.pom, *self.beside))
        return under / f"jars-{hashlib.sha256(content).hexdigest()[:12]}"

    def find(self, under: Path) -> Path | None:
        """The folder if they are there."""
        folder = self.folder(under)
        return folder if folder.exists() else None

    def fetch(self, under: Path) -> None:
        """Copies them, unless they are there.

        Raises:
            ServiceError: Maven is missing or fails.
        """
        folder = self.folder(under)
        if folder.exists():
            return
        unfinished = folder.with_suffix(".making")
        shutil.rmtree(unfinished, ignore_errors=True)
        under.mkdir(parents=True, exist_ok=True)
        command = ["mvn", "-B", "-q", "-f", str(self.pom), "dependency:copy-dependencies"]
        try:
            copied = run_to_end([*command, f"-DoutputDirectory={unfinished}", "-DincludeScope=runtime"])
        except FileNotFoundError:
            raise ServiceError("Maven is missing (the program mvn): apt-get install maven") from None
        if copied.returncode != 0:
            raise ServiceError(f"Maven could not fetch {self.what}.\n{copied.stdout[-2000:]}{copied.stderr[-2000:]}")
        for path in self.beside:
            shutil.copy(path, unfinished)
        unfinished.rename(folder)
