"""Ctrl-C and SIGTERM: the first asks a run to end cleanly, a second ends the process at once."""

from __future__ import annotations

import os
import signal
from threading import Event
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns signals into a stop event, within a ``with`` block on the main thread.

    Attributes:
        stop: Set by the first signal.
        received: Number of that signal; None if there was none.
    """

    def __init__(self) -> None:
        self.stop = Event()
        self.received: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.keep()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def keep(self) -> None:
        """Takes the signals (again): Ray puts handlers of its own in place when it starts."""
        for number in SIGNALS:
            if signal.getsignal(number) != self._handle:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            # At once means without cleaning up; what is committed is whole, and the next run goes on from there.
            os._exit(128 + number)
        self.received = number
        self.stop.set()
        # Not print: the handler may have interrupted one.
        os.write(2, b"\nraypipe: ending the run cleanly; once more ends it at once.\n")
