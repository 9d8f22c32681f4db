"""``python -m cluster.services`` starts, shows and stops servers, as often as one likes, and says what is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from servers import missing_skips

from cluster.services.account import Account
from cluster.services.home import FOLDER, ROOT, open_home
from cluster.services.process import lives
from cluster.services.servers import private_postgres, shared_postgres


@pytest.fixture
def folder(short_path: Path) -> Iterator[Path]:
    """A home of this test's own; what runs in it is stopped at the end."""
    short_path.chmod(0o755)
    yield short_path
    services(short_path, "down")


def services(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.services", *words],
        cwd=ROOT,
        env={**os.environ, FOLDER: str(folder), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def pid_in(told: str) -> int:
    found = re.search(r"runs as (\d+)", told)
    assert found, told
    return int(found[1])


def test_servers_start_once_and_stop_once(folder: Path) -> None:
    first = services(folder, "up", "postgres18")
    assert first.returncode == 0, first.stderr
    again = services(folder, "up", "postgres18")
    assert pid_in(again.stdout) == pid_in(first.stdout)
    assert "ready after" in first.stdout
    assert "ready after" not in again.stdout
    assert services(folder, "status", "postgres18").returncode == 0
    stopped = services(folder, "down", "postgres18")
    assert "does not run" in stopped.stdout
    assert not psutil.pid_exists(pid_in(first.stdout)) or not lives(psutil.Process(pid_in(first.stdout)))
    assert services(folder, "down", "postgres18").stdout == ""
    assert services(folder, "status", "postgres18").returncode == 1


def test_a_stopped_server_comes_back_with_port_and_password(folder: Path) -> None:
    assert services(folder, "up", "postgres18").returncode == 0
    before = services(folder, "env", "postgres18").stdout
    services(folder, "down", "postgres18")
    assert services(folder, "up", "postgres18").returncode == 0
    assert services(folder, "env", "postgres18").stdout == before
    assert (folder / "env").read_text() != ""
    assert (folder / "env").stat().st_mode & 0o077 == 0
    assert (folder / "password").stat().st_mode & 0o077 == 0


def test_a_port_that_another_server_has_is_replaced(folder: Path, short_path: Path) -> None:
    other = short_path / "other"
    try:
        assert services(folder, "up", "postgres18").returncode == 0
        assert services(other, "up", "postgres18").returncode == 0
        ports = {shared_postgres(open_home(home), 18).port for home in (folder, other)}
        assert len(ports) == 2
    finally:
        services(other, "down")


def test_the_password_is_in_no_output_but_env(folder: Path) -> None:
    told = services(folder, "up", "postgres18")
    shown = services(folder, "status")
    password = (folder / "password").read_text().strip()
    assert password not in told.stdout + told.stderr + shown.stdout + shown.stderr
    assert password in services(folder, "env", "postgres18").stdout


def test_an_unknown_server_is_answered_with_the_names_there_are(folder: Path) -> None:
    told = services(folder, "up", "postgres9")
    assert told.returncode == 2
    assert "postgres15, postgres16, postgres18, kafka" in told.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as somebody else")
def test_a_checkout_that_only_root_can_enter_keeps_its_servers_outside(short_path: Path) -> None:
    short_path.chmod(0o700)
    chosen = short_path / "services"
    home = open_home(chosen)
    try:
        assert home.account.name == "nobody"
        assert home.account.can_enter(home.folder)
        assert chosen.resolve() == home.folder != chosen
        assert open_home(chosen) == home
    finally:
        home.folder.rmdir()
    assert open_home(chosen) == home  # made again where the link leads
    home.folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as somebody else")
def test_programs_that_only_root_can_reach_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "can_enter", lambda account, path: path.is_relative_to(folder))
    with missing_skips(), private_postgres(open_home(folder), 18) as server:
        assert server.programs.bin.is_relative_to(folder)
        assert server.pid is not None
