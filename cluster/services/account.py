"""The operating system's user that servers run as: oneself, or an ordinary user where that would be root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# PostgreSQL refuses to run as root, and nothing else here needs to. This user exists everywhere and owns nothing.
ORDINARY = "nobody"


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user and a group to start processes as; ``change`` tells whether that differs from who we are."""

    name: str
    uid: int
    gid: int
    change: bool

    def popen(self) -> dict[str, Any]:
        """Keyword arguments that make `subprocess.Popen` start a process as this user, with no other groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.change else {}

    def own(self, path: Path) -> None:
        """Gives a file, or a folder with all that is in it, to this user."""
        if not self.change:
            return
        os.chown(path, self.uid, self.gid)
        if path.is_dir():
            for folder, folders, files in os.walk(path):
                for name in (*folders, *files):
                    os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)

    def can_enter(self, folder: Path) -> bool:
        """Whether this user may read what is in a folder, all folders above it included."""
        words = ["test", "-r", f"{folder}/.", "-a", "-x", f"{folder}/."]
        asked = subprocess.run(words, check=False, **self.popen())
        return asked.returncode == 0


def ordinary_account() -> Account:
    """Who servers run as: we ourselves, or ``nobody`` if we are root."""
    if os.geteuid() != 0:
        return Account(name=pwd.getpwuid(os.geteuid()).pw_name, uid=os.geteuid(), gid=os.getegid(), change=False)
    entry = pwd.getpwnam(ORDINARY)
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, change=True)
