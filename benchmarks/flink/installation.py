"""Where Flink is: 844 MB with a Python environment of its own, so nobody gets it without asking for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import CannotRun

VERSION = "2.3.0"
# Names the Python of an environment that has apache-flink; without it, the environment that `install` makes is meant.
PYTHON = "RAYPIPE_FLINK_PYTHON"
HOME = Path(__file__).parents[2] / "var" / "flink"
INSTALL = "python -m benchmarks.flink install"
_ASK = "import importlib.metadata as m; print(m.version('apache-flink'))"


@dataclass(frozen=True, kw_only=True)
class Flink:
    """An installation.

    Attributes:
        python: That can import ``pyflink``.
        version: Of Flink.
        java: First line of what ``java -version`` says.
    """

    python: Path
    version: str
    java: str


def find() -> Flink:
    """The installation to measure.

    Raises:
        CannotRun: there is none, or no Java.
    """
    java = shutil.which("java")
    if java is None:
        raise CannotRun("Flink needs a Java runtime (17); install one, e.g. `apt install openjdk-17-jre-headless`.")
    given = os.environ.get(PYTHON)
    python = Path(given) if given else HOME / "bin" / "python"
    if not python.exists():
        raise CannotRun(
            f"There is no Flink at {python}. Run `{INSTALL}` (844 MB, into var/flink), or set {PYTHON} to the Python of"
            f" an environment that has apache-flink {VERSION}."
        )
    asked = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise CannotRun(f"{python} has no apache-flink. Run `{INSTALL}`, or set {PYTHON} to another Python.")
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    return Flink(python=python, version=asked.stdout.strip(), java=told.partition("\n")[0])


def install() -> None:
    """Makes an environment with Flink in an ignored folder of the repository, from PyPI.

    Raises:
        CannotRun: the package index does not answer, or has no Flink for this Python.
    """
    made = subprocess.run([sys.executable, "-m", "venv", HOME], check=False)
    command = [str(HOME / "bin" / "python"), "-m", "pip", "install", f"apache-flink=={VERSION}"]
    if made.returncode != 0 or subprocess.run(command, check=False).returncode != 0:
        raise CannotRun(f"Flink {VERSION} could not be installed into {HOME}; what pip says above is why.")
