"""``memory_flat``: a backlog five times as large takes no more memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.shop import make_backlog, make_shop

# How often processes are found. Their peaks are the kernel's own (VmHWM), so none is missed between two looks.
LOOK_S = 0.2
# Below this a process does nothing for the pipeline: Ray's monitors, agents and idle workers come and go.
NOTEWORTHY_MB = 100.0


class MemoryFlat:
    """Peak resident memory of every process of a local run and of a Ray run."""

    name = "memory_flat"
    about = "Peak megabytes of the process that grows most between a backlog of 1 M and one of 5 M changes."
    figures = tuple(
        Figure(
            name=f"memory_flat_{runner}",
            unit="MB",
            beside="the same process with a fifth of the backlog",
            goal=Goal(text="ratio 0.8 to 1.2", of="ratio", at_least=0.8, at_most=1.2),
        )
        for runner in ("local", "ray")
    )
    repetitions = Repetitions(full=1, quick=1)

    def run(self, folder: Path, size: Size) -> Samples:
        """Four runs: two sizes, two runners."""
        unit = 1_000_000 if size is Size.FULL else 50_000
        samples: dict[str, Sample] = {}
        notes = []
        for runner, options in (("local", ["--local"]), ("ray", [])):
            small, large = (_peaks_mb(folder / f"{runner}{times}", times * unit, options) for times in (1, 5))
            grown = {name: (large[name], small[name]) for name in large if name in small}
            worst = max(grown, key=lambda name: abs(grown[name][0] / grown[name][1] - 1.0))
            samples[f"memory_flat_{runner}"] = Sample(value=grown[worst][0], limit=grown[worst][1])
            notes += [
                f"{runner}: {name} {before:,.0f} MB, then {after:,.0f} MB ({after / before:.2f})"
                for name, (after, before) in sorted(grown.items(), key=lambda item: -item[1][0])
            ]
        return Samples(by_figure=samples, notes=notes)


def _peaks_mb(folder: Path, changes: int, options: list[str]) -> Mapping[str, float]:
    """Runs until idle over a backlog; peak of each kind of process, by name."""
    folder.mkdir()
    shop = make_shop(folder)
    command = [sys.executable, "-m", "raypipe", "run", str(shop.pipeline), "--until", "idle", *options]
    # The first run makes the capture, so that the second finds changes and not a table to load.
    subprocess.run(command, check=True, capture_output=True)
    make_backlog(shop, changes)
    peaks: dict[str, float] = {}
    with (folder / "run.log").open("wb") as output:
        run = subprocess.Popen(command, stdout=output, stderr=output)
        while run.poll() is None:
            _note_peaks(psutil.Process(run.pid), peaks)
            time.sleep(LOOK_S)
    if run.returncode != 0:
        raise RuntimeError(f"the run ended with exit code {run.returncode}: {(folder / 'run.log').read_text()[-2000:]}")
    return {name: peak for name, peak in peaks.items() if peak >= NOTEWORTHY_MB}


def _note_peaks(run: psutil.Process, peaks: dict[str, float]) -> None:
    for process in (run, *run.children(recursive=True)):
        try:
            name = "raypipe run" if process.pid == run.pid else _name(process)
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (psutil.Error, OSError):
            continue  # ended meanwhile
        peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
        peaks[name] = max(peaks.get(name, 0.0), int(peak) / 1024)


def _name(process: psutil.Process) -> str:
    """What Ray calls it: an actor's process is ``ray::<class>`` with the method while one runs."""
    title: str = next(iter(process.cmdline()), "")
    return title.partition(".")[0] if title.startswith("ray::") else str(process.name())
