"""Ctrl-C and SIGTERM: the first sets the stop event, the second ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

from raypipe.cli.signals import SIGNALS, StopSignals

DEADLINE_S = 60.0


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_the_run_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.stop.is_set()
        signal.raise_signal(number)
        assert signals.stop.wait(DEADLINE_S)
        assert signals.received == number
    assert signal.getsignal(number) is before


def test_a_signal_that_comes_while_the_run_is_about_to_wait_does_not_hang_it() -> None:
    with StopSignals() as signals:
        lock: Any = signals.stop._cond  # type: ignore[attr-defined]  # what the event holds for a moment in each wait
        with lock:
            signal.raise_signal(signal.SIGTERM)
            assert signals.received in (None, signal.SIGTERM), "the handler has come back"
        assert signals.stop.wait(DEADLINE_S)


def test_a_signal_is_heard_while_the_main_thread_is_inside_a_library() -> None:
    code = (
        "import os, signal, sqlite3, threading\n"
        "from raypipe.cli.signals import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    def tell():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print(signals.stop.wait(60), flush=True)\n"
        "        os._exit(7)\n"
        "    threading.Timer(0.1, tell).start()\n"
        "    sqlite3.connect(':memory:').execute('WITH RECURSIVE n(i) AS "
        "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n').fetchall()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (7, "True\n"), ended.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    code = (
        "import threading\n"
        "from raypipe.cli.signals import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    print('begun', flush=True)\n"
        "    assert signals.stop.wait(60)\n"
        "    print('still here', flush=True)\n"
        "    threading.Event().wait(60)\n"
        "    print('never here', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.stdout.readline() == "still here\n"
        assert process.stderr.readline() == "\n"
        assert "once more ends it at once" in process.stderr.readline()
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number
    assert output == ""


def test_a_handler_that_ray_put_in_place_is_taken_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        signals.keep()
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop.wait(DEADLINE_S)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
