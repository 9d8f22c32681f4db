"""A disk that is really full or really read-only, for each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import SIZE, Disk, mount


@pytest.fixture
def disk(short_path: Path) -> Iterator[Disk]:
    path = short_path / "disk"
    path.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={SIZE}", "raypipe-test", str(path))
    except OSError as error:
        reason = f"a small disk cannot be mounted here ({error})"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test full disks, but {reason}")
        pytest.skip(reason)
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)
