"""``python -m cluster.services up|down|status|install|env``: the servers that this checkout's users share."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from cluster.services.home import Home, NotInstalled, open_home
from cluster.services.install import install
from cluster.services.process import ServiceError
from cluster.services.servers import CONNECT, NAMES, Server, shared
from cluster.services.telling import environment, line, pids, programs

PROGRAMS = (*NAMES, CONNECT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the arguments ask for; returns the exit code: 0, or 1 if something asked for is not there or not up."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.server if name not in PROGRAMS]:
        parser.error(f"no such server: {', '.join(unknown)}; choose from {', '.join(PROGRAMS)}")
    commands = {"up": up, "down": down, "status": status, "install": install_only, "env": env}
    try:
        return commands[asked.command](open_home(), asked.server or list(PROGRAMS))
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1


def up(home: Home, names: Sequence[str]) -> int:
    """Installs what is missing, starts what does not run, and writes the file ``env``.

    What cannot be had here is told in a line, and the others start.
    """
    code = 0
    with home.lock():
        for name in names:
            began = time.monotonic()
            try:
                install(home, name)
                if name == CONNECT:
                    print(programs(home.connect()), flush=True)
                    continue
                server = shared(home, name)
                running = all(pids(server))
                if not running:
                    server.start()
            except ServiceError as error:
                print(f"{name:12}{error}", file=sys.stderr, flush=True)
                code = 1
            else:
                print(line(server) + ("" if running else f", ready after {time.monotonic() - began:.1f} s"), flush=True)
        path = home.folder / "env"
        path.touch(mode=0o600)
        path.write_text(environment(_installed(home, NAMES)))
    print(f"addresses and the password: {path}")
    return code


def down(home: Home, names: Sequence[str]) -> int:
    """Stops what runs; the data stays."""
    with home.lock():
        for server in _installed(home, names):
            if any(pids(server)):
                server.stop()
                print(line(server), flush=True)
    return 0


def status(home: Home, names: Sequence[str]) -> int:
    """Prints a line for each server; 1 if one does not run."""
    code = 0
    for name in names:
        try:
            if name == CONNECT:
                print(programs(home.connect()))
                continue
            with home.lock():
                server = shared(home, name)
        except NotInstalled as missing:
            print(f"{name:12}{missing}")
            code = 1
        else:
            print(line(server))
            code = code if all(pids(server)) else 1
    return code


def install_only(home: Home, names: Sequence[str]) -> int:
    """Installs what is missing and starts nothing."""
    with home.lock():
        for name in names:
            install(home, name)
    return 0


def env(home: Home, names: Sequence[str]) -> int:
    """Prints addresses and the password as a shell reads them."""
    with home.lock():
        print(environment(_installed(home, names)), end="")
    return 0


def _installed(home: Home, names: Sequence[str]) -> list[Server]:
    found = []
    for name in names:
        try:
            found += [] if name == CONNECT else [shared(home, name)]
        except NotInstalled:
            continue
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.services", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "install", "env"])
    parser.add_argument("server", nargs="*", help=f"all by default: {', '.join(PROGRAMS)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
