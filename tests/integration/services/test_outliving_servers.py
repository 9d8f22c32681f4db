"""A shared server goes on when the process that started it ends, which is nothing to warn of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.services.account import Account
from cluster.services.home import ROOT
from cluster.services.process import ServerProcess

# A server is found again by its folder in its command line.
STARTS = """
import os, sys
from pathlib import Path
from cluster.services.account import Account
from cluster.services.process import ServerProcess
folder = Path(sys.argv[1])
account = Account(name="ours", uid=os.getuid(), gid=os.getgid(), change=False)
server = ServerProcess(name="idle", folder=folder, log=folder / "server.log", account=account)
server.spawn([sys.executable, "-c", "import time; time.sleep(600)", f"{folder}/"])
"""


def test_a_server_outlives_who_started_it_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "always", "-c", STARTS, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    account = Account(name="ours", uid=os.getuid(), gid=os.getgid(), change=False)
    server = ServerProcess(name="idle", folder=tmp_path, log=tmp_path / "server.log", account=account)
    try:
        assert (ended.returncode, ended.stderr) == (0, "")
        assert server.pid is not None
    finally:
        server.kill()
    assert server.pid is None
