"""``memory_flat``: a backlog five times as large takes no more memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.shop import make_backlog, make_shop

# How often processes are found. Their peaks are the kernel's own (VmHWM), so none is missed between two looks.
LOOK_S = 0.2
# Below this a process does nothing for the pipeline: Ray's monitors, agents and idle workers come and go.
NOTEWORTHY_MB = 100.0


# Both sizes shall take the same way: by default the smaller one would run inline and leave Ray's task workers idle.
ALWAYS_RAY_DATA = "limits: {ray_data_bytes: 0}\n"


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory a process has had so far."""

    name: str
    megabytes: float


class MemoryFlat:
    """Peak resident memory of every process of a local run and of a Ray run."""

    name = "memory_flat"
    about = "Peak megabytes of the process that grows most between a backlog of 1 M and one of 5 M changes."
    figures = tuple(
        Figure(
            name=f"memory_flat_{runner}",
            unit="MB",
            beside="the same process with a fifth of the backlog, on Ray with Ray Data in both cases",
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
    shop.pipeline.write_text(shop.pipeline.read_text() + ALWAYS_RAY_DATA)
    command = [sys.executable, "-m", "raypipe", "run", str(shop.pipeline), "--until", "idle", *options]
    # The first run makes the capture, so that the second finds changes and not a table to load.
    subprocess.run(command, check=True, capture_output=True)
    make_backlog(shop, changes)
    seen: dict[int, Peak] = {}
    with (folder / "run.log").open("wb") as output:
        run = subprocess.Popen(command, stdout=output, stderr=output)
        while run.poll() is None:
            _look(psutil.Process(run.pid), seen)
            time.sleep(LOOK_S)
    if run.returncode != 0:
        raise RuntimeError(f"the run ended with exit code {run.returncode}: {(folder / 'run.log').read_text()[-2000:]}")
    peaks: dict[str, float] = {}
    for peak in seen.values():
        peaks[peak.name] = max(peaks.get(peak.name, 0.0), peak.megabytes)
    return {name: megabytes for name, megabytes in peaks.items() if megabytes >= NOTEWORTHY_MB}


def _look(run: psutil.Process, seen: dict[int, Peak]) -> None:
    """Notes the peak so far of the run's process and of each below it."""
    for process in (run, *run.children(recursive=True)):
        try:
            name = "raypipe run" if process.pid == run.pid else _name(process)
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (psutil.Error, OSError):
            continue  # ended meanwhile
        kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
        seen[process.pid] = Peak(name=name, megabytes=int(kib) / 1024)


def _name(process: psutil.Process) -> str:
    """What Ray calls an actor's process; a worker of its pool has the name of its task, or IDLE between two."""
    title: str = next(iter(process.cmdline()), "")
    if not title.startswith("ray::"):
        return str(process.name())
    name = title.partition(".")[0]
    return name if name.endswith("Actor") else "ray task worker"
