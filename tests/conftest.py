"""What every test gets: one printed seed, a short folder, and no process left behind."""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ("servers",)

SEED = "RAYPIPE_SEED"
TEST = "RAYPIPE_TEST"

# A process that was told to end gets this long to do so; Ray's own shutdown is the slowest.
GONE_WITHIN_S = 60.0

# Names of tests that start Ray: two Rays at once on two cores slow each other down until their deadlines pass.
STARTS_RAY = re.compile(r"tests/ray/|test_ray_kills|test_demo_command|test_ray_data_|\[ray\]")

# Python's own helpers, which live as long as the process that needed them first.
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Chooses the seed once, in the process that xdist's workers inherit their environment from."""
    seed = int(os.environ.setdefault(SEED, str(random.SystemRandom().randrange(2**32))))
    if config.getoption("hypothesis_seed") is None:
        config.option.hypothesis_seed = str(seed)
    # No deadline: it measures how busy the machine is.
    hypothesis.settings.register_profile("raypipe", deadline=None, print_blob=True)
    hypothesis.settings.load_profile("raypipe")


def pytest_report_header() -> str:
    """Tells how to run the same tests again."""
    return f"seed: {SEED}={os.environ[SEED]}"


class OneRayAtATime(LoadScopeScheduling):
    """Gives tests that start Ray to one worker, one after another, and all others to whoever is free.

    By name, since this is decided where no marks are known. xdist's own way, marks of the group appended to a test's
    name in the worker, is lost with pytest 9.2, which keeps names elsewhere.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if STARTS_RAY.search(nodeid) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneRayAtATime | None:
    """For ``--dist loadgroup``, which the Makefile asks for."""
    return OneRayAtATime(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuses a test that is marked to start Ray while its name does not tell the scheduler so."""
    if item.get_closest_marker("ray") and not STARTS_RAY.search(item.nodeid):
        raise pytest.UsageError(f"{item.nodeid} starts Ray: say so in STARTS_RAY (tests/conftest.py).")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed for this test, made from the run's seed and the test's name, so that one test alone repeats itself."""
    return random.Random(f"{os.environ[SEED]} {request.node.nodeid}").randrange(2**32)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder with a short name: a Unix socket's path has 107 bytes, and Ray spends 60 of them."""
    path = Path(tempfile.mkdtemp(prefix="rp", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_process_left_behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test whose processes outlive it; finds orphans too, by a variable that every descendant inherits."""
    name = f"{os.getpid()} {request.node.nodeid}"
    monkeypatch.setenv(TEST, name)
    yield
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := _processes_of(name)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    assert not left, f"processes left behind: {', '.join(str(process) for process in left)}"


def _processes_of(test: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(TEST) == test:
                command = " ".join(process.cmdline())
                if command and not any(helper in command for helper in HELPERS):
                    found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, a zombie that nobody has buried, or another user's
    return found
