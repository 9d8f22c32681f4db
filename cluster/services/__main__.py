"""``python -m cluster.services up|down|status|install|env``: the shared servers of this checkout."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from cluster.services.home import Home, NotInstalled, open_home
from cluster.services.install import install
from cluster.services.process import ServiceError
from cluster.services.servers import NAMES, Server, shared
from cluster.services.telling import environment, line, pids


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the arguments ask for; returns the exit code: 0, or 1 with one message on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        home = open_home()
        commands = {"up": up, "down": down, "status": status, "install": install_only, "env": env}
        return commands[asked.command](home, asked.server or list(NAMES))
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1


def up(home: Home, names: list[str]) -> int:
    """Installs what is missing, starts what does not run, and writes ``env``."""
    with home.lock():
        install(home, names)
        for name in names:
            server, began = shared(home, name), time.monotonic()
            if not all(pids(server)):
                server.start()
                print(f"{line(server)}  started in {time.monotonic() - began:.1f} s", flush=True)
            else:
                print(line(server), flush=True)
        path = home.folder / "env"
        path.touch(mode=0o600)
        path.write_text(environment(_installed(home, list(NAMES))))
    print(f"Addresses and passwords for a shell: set -a; . {path}; set +a")
    return 0


def down(home: Home, names: list[str]) -> int:
    """Stops what runs; the data stays."""
    with home.lock():
        for server in _installed(home, names):
            if any(pids(server)):
                server.stop()
                print(line(server), flush=True)
    return 0


def status(home: Home, names: list[str]) -> int:
    """Prints a line for each server; 1 if one does not run."""
    running = []
    for name in names:
        try:
            server = shared(home, name)
        except NotInstalled as missing:
            print(f"{name:12}{missing}")
            running.append(False)
        else:
            print(line(server))
            running.append(all(pids(server)))
    return 0 if all(running) else 1


def install_only(home: Home, names: list[str]) -> int:
    """Installs what is missing and starts nothing."""
    with home.lock():
        install(home, names)
    return 0


def env(home: Home, names: list[str]) -> int:
    """Prints addresses and passwords as a shell reads them."""
    print(environment(_installed(home, names)), end="")
    return 0


def _installed(home: Home, names: list[str]) -> list[Server]:
    found = []
    for name in names:
        try:
            found.append(shared(home, name))
        except NotInstalled:
            continue
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.services", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "install", "env"])
    parser.add_argument("server", nargs="*", choices=[*NAMES, []], help=f"all by default: {', '.join(NAMES)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
