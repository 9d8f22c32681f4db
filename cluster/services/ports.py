"""TCP ports of 127.0.0.1 for servers that take seconds to begin listening."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Below the range from which the kernel serves outgoing connections and servers that ask for any port (32768 on Linux).
# A port that the kernel gave would be given again before a broker has come to listen on it, and a broker that talks to
# a stranger there may run out of memory: it takes whatever comes for the length of a message.
FIRST, LAST = 20_000, 32_000


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def claimed_ports(count: int) -> Iterator[list[int]]:
    """Free ports that no other caller on this machine is given until the context ends, or this process does."""
    claims = Path(tempfile.gettempdir()) / f"raypipe-ports-{os.geteuid()}"
    claims.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        ports: list[int] = []
        for port in random.SystemRandom().sample(range(FIRST, LAST), LAST - FIRST):
            if len(ports) == count:
                break
            file = (claims / str(port)).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            if is_free(port):
                held.enter_context(file)
                ports.append(port)
            else:
                file.close()
        yield ports
