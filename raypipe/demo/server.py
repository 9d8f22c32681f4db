"""The server that holds the books: PostgreSQL from a wheel, in a folder of the demo's, on loopback.

Started and stopped by the checkout's own tool for servers, ``python -m cluster.services``, which this only calls.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import raypipe
from raypipe.errors import Kind, RaypipeError

NAME = "postgres18"
DATABASE = "books"
# Making its data folder and starting it takes two seconds; a busy machine may take its time.
WITHIN_S = 120.0


class BooksServer:
    """One PostgreSQL for the demo; outlives this process unless it is stopped.

    Args:
        folder: Where it lives; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checkout = Path(raypipe.__file__).parents[1]

    def start_anew(self) -> str:
        """Starts it with an empty database ``books``; returns the database's URL, password included.

        Raises:
            RaypipeError: it cannot be installed or started here.
        """
        self.stop()
        shutil.rmtree(self._folder / NAME, ignore_errors=True)
        url = self.start()
        self._create_database(url)
        return url

    def start(self) -> str:
        """Starts it as an earlier demo left it, unless it runs; returns the database's URL.

        Raises:
            RaypipeError: it cannot be installed or started here.
        """
        self._ask("up")
        told = dict(line.split("=", 1) for line in self._ask("env").splitlines() if "=" in line)
        return told[f"RAYPIPE_{NAME.upper()}"].strip("'").rpartition("/")[0] + f"/{DATABASE}"

    def stop(self) -> None:
        """Ends it, if it runs; its data stays."""
        if (self._folder / NAME).exists():
            self._ask("down")

    def _create_database(self, url: str) -> None:
        from contextlib import closing

        from raypipe.demo.books import connect

        with closing(connect(f"{url.rpartition('/')[0]}/postgres")) as connection:
            connection.run(f"CREATE DATABASE {DATABASE}")

    def _ask(self, command: str) -> str:
        asked = subprocess.run(
            [sys.executable, "-m", "cluster.services", command, NAME],
            cwd=self._checkout,
            env=os.environ | {"RAYPIPE_SERVICES": str(self._folder)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=WITHIN_S,
            check=False,
        )
        if asked.returncode != 0:
            raise RaypipeError(
                f"The demo's PostgreSQL could not be asked to do {command!r}: {asked.stderr.strip()}",
                kind=Kind.UNAVAILABLE,
                remedy=f"Its log is {self._folder / NAME / 'server.log'}. Needed: pip install 'raypipe[demo]'.",
            )
        return asked.stdout
