"""``startup``: how long a person waits before anything happens."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Figure, Goal, Repetitions, Sample, Samples, Size
from benchmarks.shop import make_shop

# What `raypipe check` cannot do without: it reads YAML into models, parses SQL, and asks DuckDB whether it is right.
NEEDED = "import duckdb, pyarrow, pydantic, sqlglot, yaml"


class Startup:
    """Wall-clock seconds of whole processes, the interpreter's own start included."""

    name = "startup"
    about = "Seconds until `import raypipe` is done, and until `raypipe check` has checked the shop's pipeline file."
    figures = (
        Figure(
            name="startup_import",
            unit="s",
            beside="a Python that does nothing",
            goal=Goal(text="<= 0.3 s", of="value", at_most=0.3),
        ),
        Figure(
            name="startup_check",
            unit="s",
            beside="a Python that imports the libraries which a check needs",
            goal=Goal(text="<= 2 s", of="value", at_most=2.0),
        ),
    )
    repetitions = Repetitions(full=9, quick=3)

    def run(self, folder: Path, size: Size) -> Samples:
        """Starts four processes, one after another."""
        del size  # a process starts or does not: there is no smaller amount of it
        shop = make_shop(folder)
        return Samples(
            by_figure={
                "startup_import": Sample(value=_seconds("-c", "import raypipe"), limit=_seconds("-c", "pass")),
                "startup_check": Sample(
                    value=_seconds("-m", "raypipe", "check", str(shop.pipeline)), limit=_seconds("-c", NEEDED)
                ),
            }
        )


def _seconds(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
