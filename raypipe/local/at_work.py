"""Whether a run that has told its status is still at work."""

from __future__ import annotations

import os
import socket
import time

from raypipe.engine.status import Status


def at_work(status: Status) -> bool:
    """It told so lately and, if on this machine, its process exists."""
    if not status.alive(time.time()):
        return False
    if status.host != socket.gethostname() or status.pid <= 0:
        return True
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
