"""Temporary folders for servers of one's own; what a killed process has left behind is ended by the next."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.services.account import Account
from cluster.services.process import PID_FILE, ServerProcess

PREFIX = "raypipe-private-"

# Its lock is held as long as the process lives that the folder belongs to.
OWNER = "owner"


@contextmanager
def private_folder(account: Account, name: str) -> Iterator[Path]:
    """An empty folder with a short path that the account owns, removed at the end."""
    sweep(account)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-")).resolve()
    try:
        account.own(folder)
        with (folder / "owner.making").open("w") as owner:
            # Locked before it has its name: nobody may take the folder for one without an owner meanwhile.
            fcntl.flock(owner, fcntl.LOCK_EX)
            (folder / "owner.making").rename(folder / OWNER)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(account: Account) -> None:
    """Kills servers whose owner has died, and removes their folders."""
    for folder in Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / OWNER).open("r+") as owner:
            if folder.stat().st_uid != account.uid:
                continue
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for found in folder.rglob(PID_FILE):
                server = ServerProcess(name="an orphan", folder=found.parent, log=found.parent / "log", account=account)
                server.kill()
            shutil.rmtree(folder, ignore_errors=True)
