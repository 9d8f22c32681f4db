"""`raypipe demo` as a newcomer runs it, and Ctrl-C in the middle of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from raypipe.cli.demo import things_to_try

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A demo in a process group of its own, as a terminal gives one to each command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "raypipe", "demo", *options],
        cwd=ROOT,
        env=os.environ | {"RAYPIPE_SHOP": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Lines up to one with the words in it."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"{words!r} was not printed: {''.join(lines)}")


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """Every process of the group gets it, those of Ray too."""
    os.killpg(process.pid, signal.SIGINT)


def test_the_demo_kills_two_actors_recovers_proves_itself_and_what_it_advises_works(short_path: Path) -> None:
    with demo(short_path, "--seconds", "6") as process:
        printed = "".join(process.stdout or ())
        process.wait(timeout=DEADLINE_S)
    assert process.returncode == 0, printed
    for words in (
        "Killed the actor of sink warehouse",
        "Sink warehouse is back",
        "Killed the actor of the state",
        "The state is back",
        "What joins, aggregates and windows remember",
        "The demo proved itself",
    ):
        assert printed.count(words) == 1, printed
    assert "WRONG" not in printed
    commands = [
        command for _, command in things_to_try(ROOT / "examples" / "shop-and-books" / "pipeline.yaml", short_path)
    ]
    assert len(commands) == 3
    for command in commands:
        tried = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env=os.environ | {"RAYPIPE_SHOP": str(short_path)},
            capture_output=True,
            text=True,
        )
        assert tried.returncode == 0, f"{command}: {tried.stdout}{tried.stderr}"


def test_ctrl_c_while_everything_flows_ends_the_demo_and_its_writers(short_path: Path) -> None:
    with demo(short_path) as process:
        read_until(process, "The first rows are in every sink")
        press_ctrl_c(process)
        printed, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, printed
    assert "proved" not in printed


def test_ctrl_c_while_ray_starts_does_not_wait_for_ray(short_path: Path) -> None:
    with demo(short_path) as process:
        read_until(process, "a Ray of its own")
        deadline = time.monotonic() + DEADLINE_S
        while not any("gcs_server" in child.name() for child in psutil.Process(process.pid).children(recursive=True)):
            assert time.monotonic() < deadline, "Ray did not start"
            time.sleep(0.01)
        press_ctrl_c(process)
        pressed = time.monotonic()
        printed, _ = process.communicate(timeout=DEADLINE_S)
        assert time.monotonic() - pressed < 20, printed
    assert process.returncode == 130, printed
