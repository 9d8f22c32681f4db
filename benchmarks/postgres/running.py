"""A reader as a pipeline runs it, in a process of its own: ``python -m benchmarks.postgres.running LOG SOURCE TABLE``.

It says so when it follows the stream, and ends when its standard input does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.postgres.pumping import INSTANCE, Raypipe
from raypipe.local.reader import Reader
from raypipe.log import open_log
from raypipe.sources import open_source
from raypipe.spec.limits import Limits

FOLLOWS = "follows"
READY_WITHIN_S = 60.0
END_WITHIN_S = 30.0


@contextmanager
def running(raypipe: Raypipe) -> Iterator[int]:
    """Runs a reader of a lab's tables until the end of the context; gives its process number."""
    words = (raypipe.pipeline, raypipe.log, raypipe.lab.postgres.url, *raypipe.tables)
    command = [sys.executable, "-m", "benchmarks.postgres.running", *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != FOLLOWS:
            raise RuntimeError("the reader did not start")
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(END_WITHIN_S)
    if process.returncode != 0:
        raise RuntimeError(f"the reader ended with exit code {process.returncode}")


def _run(pipeline: str, log_url: str, source_url: str, tables: list[str]) -> None:
    limits = Limits()
    log = open_log(log_url, pipeline=pipeline)
    reader = Reader(
        open_source=partial(open_source, INSTANCE, source_url, tables, pipeline=pipeline),
        open_log=partial(open_log, log_url, pipeline=pipeline),
        prefix=pipeline,
        claim=log.claim(pipeline),
        reload=(),
        poll_bytes=limits.poll_bytes,
        log_bytes=limits.log_bytes,
    )
    reader.start()
    deadline = time.monotonic() + READY_WITHIN_S
    while not (reader.report().state == "streaming" and reader.report().settled):
        if time.monotonic() > deadline or reader.report().fatal is not None:
            raise RuntimeError(f"the reader does not follow the stream: {reader.report().error}")
        time.sleep(0.02)
    print(FOLLOWS, flush=True)
    sys.stdin.read()
    reader.stop()
    log.close()
    if reader.report().error:
        raise RuntimeError(reader.report().error)


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
