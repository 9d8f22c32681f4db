"""A worker's process from its start to its end, and what the measured part of it cost."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# A JVM that has done its work needs a second or two to end.
END_WITHIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of the measured part, over all processes of one side.

    Attributes:
        cpu_s: Seconds of processor.
        wall_s: Seconds on the clock.
        peak_mb: Most memory that they had in RAM, from their start on, each process by itself, added up.
        did: What the worker says of it.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    did: Mapping[str, Any]


def run(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Runs a worker: until it is ready nothing counts, then from ``go`` to ``done`` everything.

    Args:
        command: Of the worker.
        log: File for what it says besides.
        environment: Of its process; None: this one's.

    Raises:
        RuntimeError: it ended before it was done; the end of its log says why.
    """
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        assert process.stdin is not None
        try:
            _until("ready", process, log)
            used, began = _used(process.pid), time.perf_counter()
            process.stdin.write("go\n")
            process.stdin.flush()
            told = _until("done", process, log)
            wall_s = time.perf_counter() - began
            cost = Cost(
                cpu_s=_used(process.pid) - used,
                wall_s=wall_s,
                peak_mb=_peak_mb(process.pid),
                did=json.loads(told) if told else {},
            )
            process.stdin.close()
            process.wait(END_WITHIN_S)
            return cost
        finally:
            _end(process)


def _until(word: str, process: subprocess.Popen[str], log: Path) -> str:
    """What follows a word that a worker says; what else it says is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        said, _, rest = line.strip().partition(" ")
        if said == word:
            return rest
    process.wait(END_WITHIN_S)
    raise RuntimeError(f"a worker ended with exit code {process.returncode}:\n{log.read_text()[-3000:]}")


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _used(pid: int) -> float:
    """Seconds of processor of a process and those it started, of the ended ones too."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def _peak_mb(pid: int) -> float:
    return sum(map(_most_resident_mb, [process.pid for process in _tree(pid)]))


def _most_resident_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a worker that did not end by itself, and what it started."""
    if process.poll() is None:
        for each in reversed(_tree(process.pid)):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(END_WITHIN_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
