"""Writers of state killed at every step: what was committed is there, whole, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import epochs
import pytest
from trace_model import told

from raypipe import faults
from raypipe.state import Store, restore

# Restoring a checkpoint is for whoever begins a run, and has tests of its own.
POINTS = [point for point in faults.POINTS if point.startswith("state.") and point != "state.restored"]


def run(folder: Path, generation: int, armed: str = "") -> tuple[int, int]:
    """Exit status of a writer, and the last version that it said it had committed."""
    ended = subprocess.run(
        [sys.executable, epochs.__file__, str(folder), str(generation), str(epochs.LAST)],
        env=os.environ | {"RAYPIPE_FAULTS": armed, "PYTHONPATH": f"{Path.cwd()}:{Path(epochs.__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = ended.stdout.split()
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode, int(lines[-1]) if lines else 0


def check(folder: Path, generation: int, at_least: int) -> None:
    """Every kept version is what it should be, the promised one is among them, and no file is left over."""
    store = epochs.opened(folder, generation)
    try:
        assert max(store.versions(), default=0) >= at_least, "a committed version is missing"
        for version in store.versions():
            same_as_model(store, version)
            assert store.note(version) == str(version)
        assert len(os.listdir(folder)) == store.files, "a file is left over"
    finally:
        store.close()


def same_as_model(store: Store, version: int) -> None:
    with store.begin(version) as work:
        for name, model in epochs.should_hold(version).items():
            assert told(work.trace(name).rows()) == model.all(), "rows differ"


@pytest.mark.parametrize("nth", [1, 4])
@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_at_a_step_leaves_whole_versions_only(point: str, nth: int, tmp_path: Path) -> None:
    nth = 1 if point == "state.open.claimed" else nth
    status, told_version = run(tmp_path / "state", 1, f"{point}=kill@{nth}")
    assert status == -signal.SIGKILL
    check(tmp_path / "state", 2, told_version)
    assert run(tmp_path / "state", 3) == (0, epochs.LAST)
    check(tmp_path / "state", 4, epochs.LAST)
    restored = restore(
        [epochs.saved(tmp_path / "state")], tmp_path / "other", generation=5, identity="epochs", traces=epochs.TRACES
    )
    assert restored.versions() == (epochs.LAST,)
    same_as_model(restored, epochs.LAST)
    restored.close()


@pytest.mark.parametrize(
    ("armed", "noticed"),
    [
        ("mutant.state_name_early=skip,state.commit.named=kill@5", "a committed version is missing"),
        ("mutant.state_drop_weight=skip", "rows differ"),
        ("mutant.state_unset_key=skip", "rows differ"),
    ],
)
def test_a_writer_with_a_step_left_out_is_caught(armed: str, noticed: str, tmp_path: Path) -> None:
    _, told_version = run(tmp_path / "state", 1, armed)
    with pytest.raises(AssertionError, match=noticed):
        check(tmp_path / "state", 2, told_version)
