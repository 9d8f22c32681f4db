"""A reader in a process of its own: PostgreSQL into a Kafka log, as ``raypipe.local.reader`` drives it.

Usage: reader_process.py SOURCE_URL LOG_URL PIPELINE TABLES [blind]
Prints a line whenever its state changes. Ends with 3 when it was fenced, with 4 when a person must act.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection
from typing import Any

from raypipe.contracts import Log
from raypipe.errors import Directive, Fenced, OutcomeUnknown, RaypipeError
from raypipe.local.reader import Reader
from raypipe.log import open_log
from raypipe.model import ChangeBatch, Claim, Cut
from raypipe.sources import open_source

POLL_BYTES = 1 << 16
LOG_BYTES = 1 << 40
LOOK_EVERY_S = 0.02


class BlindTransaction:
    """A mutant: what a writer would be that sends its commit again when it does not know whether it happened."""

    def __init__(self, log: Log, instance: str, claim: Claim) -> None:
        self._log = log
        self._of = (instance, claim)
        self._appended: list[tuple[str, ChangeBatch]] = []
        self._inner = log.begin(instance, claim)

    def append(self, topic: str, batch: ChangeBatch) -> None:
        self._appended.append((topic, batch))
        self._inner.append(topic, batch)

    def commit(self, position: str, *, boundary: bool, loading: Collection[str] = ()) -> Cut | None:
        try:
            return self._inner.commit(position, boundary=boundary, loading=loading)
        except OutcomeUnknown:
            self._log.position(self._of[0])
            self._inner = self._log.begin(*self._of)
            for topic, batch in self._appended:
                self._inner.append(topic, batch)
            print("blind", flush=True)
            return self._inner.commit(position, boundary=boundary, loading=loading)

    def abort(self) -> None:
        self._inner.abort()


class BlindLog:
    """The log of that mutant."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def begin(self, instance: str, claim: Claim) -> BlindTransaction:
        return BlindTransaction(self._log, instance, claim)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def claimed(url: str, pipeline: str) -> Claim:
    """The right to write, asked for until the log answers."""
    while True:
        log = None
        try:
            log = open_log(url, pipeline=pipeline)
            return log.claim(pipeline)
        except RaypipeError as error:
            if error.directive is Directive.STOP:
                raise
            print("again", type(error).__name__, error, flush=True)
            threading.Event().wait(LOOK_EVERY_S)
        finally:
            if log is not None:
                log.close()


def main(source: str, url: str, pipeline: str, tables: str, mutant: str = "") -> int:
    def opened() -> Log:
        log = open_log(url, pipeline=pipeline)
        return BlindLog(log) if mutant else log  # type: ignore[return-value]

    claim = claimed(url, pipeline)
    print("claimed", claim.run, flush=True)
    reader = Reader(
        open_source=lambda: open_source("shop", source, tables.split(","), pipeline=pipeline),
        open_log=opened,
        prefix=pipeline,
        claim=claim,
        reload=(),
        poll_bytes=POLL_BYTES,
        log_bytes=LOG_BYTES,
    )
    reader.start()
    told = ""
    while True:
        report = reader.report()
        state = report.state
        if report.position is not None and state == "streaming" and report.settled and not report.loading:
            state = "settled"
        line = f"{state} {report.error}"
        if line != told:
            print(line, *([f"at {time.time():.1f}"] if report.error else []), flush=True)
            told = line
        if report.fatal is not None:
            return 3 if isinstance(report.fatal, Fenced) else 4
        threading.Event().wait(LOOK_EVERY_S)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except Fenced as fenced:
        print("failed", fenced, flush=True)
        sys.exit(3)
