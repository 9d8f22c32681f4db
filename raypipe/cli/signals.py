"""Ctrl-C and SIGTERM: the first asks a run to end cleanly, a second ends the process at once.

Python runs a signal's handler in the main thread, between two steps of whatever it does there. So the handler must not
set the event: the main thread may hold the lock within it, and would wait for itself for ever. And while the main
thread is inside a library (Kafka's waits up to half a minute for a broker) no handler runs at all. Hence a thread,
which hears of a signal from the interpreter's own wake-up descriptor, whatever the main thread does.
"""

from __future__ import annotations

import os
import signal
import socket
from threading import Event, Thread
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns signals into a stop event, within a ``with`` block on the main thread.

    Attributes:
        stop: Set within a moment of the first signal.
        received: Number of that signal; None if there was none.
    """

    def __init__(self) -> None:
        self.stop = Event()
        self.received: int | None = None
        self._handled = 0
        self._before: dict[signal.Signals, Any] = {}
        self._heard, self._woken = socket.socketpair()
        self._listener = Thread(target=self._listen, name="raypipe-signals", daemon=True)

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self._woken.setblocking(False)
        self._wakes_before = signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        self._listener.start()
        self.keep()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakes_before)
        self._woken.close()  # which ends the thread
        self._listener.join()
        self._heard.close()

    def keep(self) -> None:
        """Takes the signals (again): Ray puts handlers of its own in place when it starts."""
        for number in SIGNALS:
            if signal.getsignal(number) != self._handle:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._handled += 1
        if self._handled > 1:
            _end(number)

    def _listen(self) -> None:
        while heard := self._heard.recv(1):
            number = heard[0]
            if number not in SIGNALS:
                continue
            if self.received is not None:
                _end(number)
            self.received = number
            self.stop.set()
            # Not print: the main thread may be in the middle of one. Last, as nobody may be reading.
            os.write(2, b"\nraypipe: ending the run cleanly; once more ends it at once.\n")


def _end(number: int) -> None:
    """At once means without cleaning up; what is committed is whole, and the next run goes on from there."""
    os._exit(128 + number)
