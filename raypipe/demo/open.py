"""Runs a command with the demo's books open: ``python -m raypipe.demo.open raypipe verify examples/…/pipeline.yaml``.

The books are a PostgreSQL server, which the demo stops when it ends. This starts it again for as long as the command
runs, tells the command where it is (``RAYPIPE_BOOKS``), and ends with the command's exit code.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from raypipe.demo.server import BooksServer
from raypipe.demo.writer import BOOKS

EXAMPLE = Path("examples/shop-and-books")
SHOP = "RAYPIPE_SHOP"


def folder() -> Path:
    """Where the demo takes place: as the environment says, or ``var`` beside the example's file."""
    import raypipe

    example = Path(raypipe.__file__).parents[1] / EXAMPLE
    return (example / os.environ.get(SHOP, "var")).resolve()


def servers(place: Path) -> Path:
    """Where the server of the books lives, given the demo's folder."""
    return place / "servers"


def main(command: list[str]) -> int:
    """Runs the command; returns its exit code."""
    if not command:
        print(f"usage: python -m raypipe.demo.open COMMAND …\n\n{__doc__}", file=sys.stderr)
        return 2
    server = BooksServer(servers(folder()))
    # Ctrl-C is for the command, which shares our terminal; the server is stopped when it has ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        environment = os.environ | {BOOKS: server.start()}
        return subprocess.run(
            command,
            env=environment,
            check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ).returncode
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
