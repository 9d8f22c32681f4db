"""`ray job submit` as a user would do it: a head started elsewhere, with Ray's own token authentication on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.services.ports import claimed_ports
from raypipe.demo import shop

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEADLINE_S = 180.0


@dataclass
class Head:
    """A Ray head on loopback."""

    process: subprocess.Popen[str]
    dashboard: str
    environment: dict[str, str]


@pytest.fixture
def head(short_path: Path) -> Iterator[Head]:
    with claimed_ports(2) as (port, dashboard):
        yield from started(short_path, port, dashboard)


def started(short_path: Path, port: int, dashboard: int) -> Iterator[Head]:
    """A head on these ports, ended in the end."""
    token = short_path / "token"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    process = subprocess.Popen(
        [
            *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
            *(f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={short_path}/ray"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--object-store-memory=200000000"),
        ],
        cwd=short_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", dashboard), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "the dashboard did not come up"
                time.sleep(0.05)
        yield Head(process, f"http://127.0.0.1:{dashboard}", environment)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def submit(head: Head, *command: str) -> subprocess.CompletedProcess[str]:
    """Submits as soon as the head has an agent for jobs: it opens its port before."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        done = subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=240)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done


def test_a_job_submitted_from_the_repository_runs_the_shop_on_a_head_started_elsewhere(
    head: Head, tmp_path: Path
) -> None:
    home = tmp_path / "shop"
    home.mkdir()
    shop.create(home / "shop.db", rows=500, seed=1)
    ray = shutil.which("ray", path=head.environment["PATH"])
    assert ray is not None
    submitted = submit(
        head,
        *(ray, "job", "submit", "--address", head.dashboard, "--working-dir", "."),
        *("--runtime-env-json", json.dumps({"env_vars": {"RAYPIPE_SHOP": str(home)}})),
        *("--", "python", "-m", "raypipe", "run", "examples/shop/pipeline.yaml", "--until", "idle"),
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    verified = subprocess.run(
        [sys.executable, "-m", "raypipe", "verify", "examples/shop/pipeline.yaml", "--json"],
        cwd=ROOT,
        env=os.environ | {"RAYPIPE_SHOP": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_job_without_the_token_is_refused(head: Head) -> None:
    environment = {name: value for name, value in head.environment.items() if name != "RAY_AUTH_TOKEN_PATH"}
    environment |= {"RAY_AUTH_TOKEN": "wrong" * 8}
    refused = subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--address", head.dashboard, "--", "true"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode != 0
