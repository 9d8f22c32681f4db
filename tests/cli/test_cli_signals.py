"""Ctrl-C and SIGTERM: the first sets the stop event, the second ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from raypipe.cli.signals import SIGNALS, StopSignals


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_the_run_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.stop.is_set()
        signal.raise_signal(number)
        assert signals.stop.is_set()
        assert signals.received == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    code = (
        "import signal, sys\n"
        "from raypipe.cli.signals import StopSignals\n"
        "with StopSignals():\n"
        f"    signal.raise_signal({int(number)})\n"
        "    print('still here', flush=True)\n"
        f"    signal.raise_signal({int(number)})\n"
        "    print('never here', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 128 + number
    assert ended.stdout == "still here\n"
    assert "once more ends it at once" in ended.stderr


def test_a_handler_that_ray_put_in_place_is_taken_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        signals.keep()
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
