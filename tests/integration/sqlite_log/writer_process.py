"""A writer in a process of its own: appends transactions of two batches, the second commit of each ends it.

Usage: writer_process.py LOG TRANSACTIONS [retain]
Prints one line per durable commit. Waits for a line on standard input after claiming, if it is told ``wait``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from log_scene import TOPIC, changes, opened

from raypipe.errors import RaypipeError


def main(path: str, transactions: str, *how: str) -> int:
    log = opened(Path(path))
    claim = log.claim("p")
    at = int(log.position("shop") or 0)
    print("claimed", claim.run, flush=True)
    if "wait" in how:
        sys.stdin.readline()
    try:
        for half in range(at, 2 * int(transactions)):
            transaction = log.begin("shop", claim)
            transaction.append(TOPIC, changes(2 * half))
            transaction.append(TOPIC, changes(2 * half + 1))
            cut = transaction.commit(str(half + 1), boundary=half % 2 == 1)
            print("durable", half + 1, flush=True)
            if "retain" in how and cut is not None:
                log.retain(cut)
    except RaypipeError as error:
        print(type(error).__name__, error, flush=True)
        return 3
    finally:
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
